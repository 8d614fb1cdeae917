"""The shard of a cache: a safetensors file with many entries, their checksums, and the inputs that
could not be encoded. Also: which files of a folder are shards, and which of them sd3tune may
remove.
"""

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sd3tune.errors import DataError
from sd3tune.filesystem import opening

if TYPE_CHECKING:  # what only looks at names and sizes needs no torch
    from torch import Tensor

NAME = re.compile(r"[0-9a-f]{40}\.safetensors")  # a hash of its keys
DRAFT = re.compile(r"[0-9a-f]{40}\.draft")
ABOUT = "sd3tune"  # the only metadata key: safetensors writes several keys in random order
CHANGED = "its bytes are not those that were written"
UNREADABLE = (OSError, SafetensorError, ValueError)

Entry = Mapping[str, "Tensor"]


class Foreign(ValueError):
    """A valid safetensors file that another program wrote."""


@dataclass(frozen=True)
class About:
    """The metadata of a shard."""

    problems: Mapping[str, str]  # key -> reason why it has no entry
    digests: Mapping[str, str]  # key -> checksum of its entry


@dataclass(frozen=True)
class Damage:
    """A damaged shard, found by `verify`."""

    path: Path
    reason: str
    entries: int


def paths(folder: Path) -> list[Path]:
    """Regular files in the folder that have the name of a shard, sorted."""
    return sorted(p for p in folder.glob("*.safetensors")
                  if NAME.fullmatch(p.name) and opening.is_regular(p))  # fmt: skip


def opened(path: Path) -> tuple[Any, About]:
    """The open file and its metadata. Raises OSError, SafetensorError, and ValueError if sd3tune
    did not write it."""
    opening.size(path)
    file: Any = safe_open(str(path), framework="pt")
    return file, _about(file.metadata() or {})


def contents(path: Path) -> tuple[list[str], dict[str, str]]:
    """The keys with entries, and key -> reason for those without. Raises the same as `opened`."""
    file, about = opened(path)
    keys = sorted({name.partition(".")[0] for name in file.keys()})  # noqa: SIM118
    return keys, dict(about.problems)


def entry(file: Any, key: str) -> "dict[str, Tensor]":
    """The tensors of one entry of an open shard."""
    prefix = f"{key}."
    # safetensors finds offsets by name, so no other entry is read.
    names = [n for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118
    return {name[len(prefix) :]: file.get_tensor(name) for name in names}


def whole(path: Path, wanted: set[str]) -> dict[str, Entry]:
    """The wanted entries whose content matches their checksum."""
    file, about = opened(path)
    read = {key: entry(file, key) for key in contents(path)[0] if key in wanted}
    return {key: e for key, e in read.items() if digest(e) == about.digests.get(key)}


def serialised(entries: Mapping[str, Entry], problems: Mapping[str, str]) -> bytes:
    """A shard as bytes; equal entries give equal bytes."""
    from safetensors.torch import save

    tensors = {
        f"{key}.{name}": tensor.contiguous()
        for key in sorted(entries)
        for name, tensor in sorted(entries[key].items())
    }
    digests = {key: digest(entries[key]) for key in sorted(entries)}
    about = {"problems": dict(sorted(problems.items())), "digests": digests}
    data: bytes = save(tensors, {ABOUT: json.dumps(about)})
    return data


def digest(entry: Entry) -> str:
    """Checksum over names, dtypes, shapes and bytes of an entry's tensors."""
    import torch

    h = blake2b(digest_size=16)
    for name, tensor in sorted(entry.items()):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        h.update(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return h.hexdigest()


def damage(path: Path) -> Damage | None:
    """Reads a shard completely. None if it is intact or of another program. Raises DataError if
    this user may not read it."""
    try:
        entries, problems = contents(path)
        file, about = opened(path)
        found = {key: entry(file, key) for key in entries}
    except Foreign:
        return None
    except PermissionError as e:
        raise DataError(
            f"`{path}` cannot be read: {e.strerror}",
            hint="ask its owner for permission (`chmod g+r`); nothing was removed",
        ) from None
    except UNREADABLE as e:
        return Damage(path, f"cannot be read: {e}", 0)
    count = len(entries) + len(problems)
    if {key: digest(e) for key, e in found.items()} != about.digests:
        return Damage(path, CHANGED, count)
    import torch

    tensors = [t for e in found.values() for t in e.values() if t.is_floating_point()]
    if not all(torch.isfinite(t).all() for t in tensors):
        return Damage(path, "it holds NaN or infinity", count)
    return None


def is_readable(path: Path) -> bool:
    """Whether the file is a shard whose metadata names sd3tune."""
    try:
        opened(path)
    except UNREADABLE:
        return False
    return True


def is_ours(path: Path, folder_is_ours: bool) -> bool:
    """Whether sd3tune may remove a file: its name and its metadata decide. If the metadata cannot
    be read, the folder decides."""
    if not NAME.fullmatch(path.name):
        return False
    try:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            return False
        opened(path)
    except (Foreign, PermissionError):  # PermissionError: of another user, perhaps intact
        return False
    except UNREADABLE:
        return folder_is_ours and opening.is_regular(path)
    return True


def _about(metadata: Mapping[str, str]) -> About:
    if ABOUT not in metadata:
        raise Foreign("sd3tune did not write it")
    data = opening.parsed(metadata[ABOUT])
    if not isinstance(data, dict):
        raise ValueError(f"its metadata `{ABOUT}` is damaged")
    return About(_texts(data, "problems"), _texts(data, "digests"))


def _texts(data: Mapping[str, Any], name: str) -> dict[str, str]:
    found = data.get(name, {})
    if not (isinstance(found, dict) and all(isinstance(v, str) for v in found.values())):
        raise ValueError(f"its metadata `{ABOUT}` is damaged at `{name}`")
    return found
