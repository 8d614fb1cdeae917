"""The shard of a cache: a safetensors file with many entries, their checksums, and the inputs that
could not be encoded. Also: which files of a folder are shards, and which of them sd3tune may
remove.

A tensor may be stored coded (data/coding.py): the metadata then names the coding and the tensor's
shape. Shards from before there was a coding have none. Checksums are those of the decoded tensors.
"""

import json
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sd3tune import deferred
from sd3tune.data import coding
from sd3tune.filesystem import opening

if TYPE_CHECKING:  # what only looks at names and sizes needs no torch
    from torch import Tensor

NAME = re.compile(r"[0-9a-f]{40}\.safetensors")  # a hash of its keys
DRAFT = re.compile(r"[0-9a-f]{40}\.draft")
ABOUT = "sd3tune"  # the only metadata key: safetensors writes several keys in random order
CHANGED = "its bytes are not those that were written"
CODERS, MANY_BYTES = 4, 2**22  # threads, and the bytes of a shard that are worth them
UNREADABLE = (OSError, SafetensorError, ValueError)

Entry = Mapping[str, "Tensor"]


class Foreign(ValueError):
    """A valid safetensors file that another program wrote, or a newer sd3tune."""


@dataclass(frozen=True)
class About:
    """The metadata of a shard."""

    problems: Mapping[str, str]  # key -> reason why it has no entry
    digests: Mapping[str, str]  # key -> checksum of its entry
    shapes: Mapping[str, tuple[int, ...]]  # name of a coded tensor -> its shape


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


@dataclass(frozen=True)
class Shard:
    """An open shard."""

    file: Any
    about: About
    names: Mapping[str, Sequence[str]]  # key -> names of its tensors in the file

    def entry(self, key: str) -> "dict[str, Tensor]":
        """The tensors of one entry; none for a key that the shard lacks. Raises SafetensorError,
        and ValueError for a coded tensor that is damaged."""
        return {name.partition(".")[2]: self._tensor(name) for name in self.names.get(key, ())}

    def _tensor(self, name: str) -> "Tensor":
        found: Tensor = self.file.get_tensor(name)
        shape = self.about.shapes.get(name)
        return found if shape is None else coding.decoded(found, shape)


def opened(path: Path) -> Shard:
    """The open file. Raises OSError, SafetensorError, and ValueError if sd3tune did not write
    it."""
    return _opened(path, "pt")


def described(path: Path) -> Shard:
    """The open file without its tensors: torch is not imported. Raises the same as `opened`."""
    with deferred.briefly("numpy"):  # safetensors imports it to read a header too (0.8): 0.1 s
        return _opened(path, "np")


def _opened(path: Path, framework: str) -> Shard:
    opening.size(path)
    file: Any = safe_open(str(path), framework=framework)
    names: dict[str, list[str]] = {}
    for name in file.keys():  # noqa: SIM118
        names.setdefault(name.partition(".")[0], []).append(name)
    return Shard(file, _about(file.metadata() or {}), names)


def contents(path: Path) -> tuple[list[str], dict[str, str]]:
    """The keys with entries, and key -> reason for those without. Raises the same as `opened`."""
    shard = described(path)
    return sorted(shard.names), dict(shard.about.problems)


def whole(path: Path, wanted: set[str]) -> dict[str, Entry]:
    """The wanted entries whose content matches their checksum."""
    shard = opened(path)
    read = {key: shard.entry(key) for key in sorted(shard.names) if key in wanted}
    return {key: e for key, e in read.items() if digest(e) == shard.about.digests.get(key)}


def stored(
    entries: Mapping[str, Entry], problems: Mapping[str, str]
) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors and the metadata of the file of a shard; equal entries give equal ones. Large
    entries are coded beside each other."""
    keys = sorted(entries)
    size = sum(t.nbytes for entry in entries.values() for t in entry.values())
    if size < MANY_BYTES:
        coded = [_stored(entries[key]) for key in keys]
    else:
        with ThreadPoolExecutor(CODERS, thread_name_prefix="cache-coder") as pool:
            coded = list(pool.map(_stored, (entries[key] for key in keys)))
    tensors, shapes, digests = {}, {}, {}
    for key, (frames, shape_of, checksum) in zip(keys, coded, strict=True):
        tensors.update({f"{key}.{name}": t for name, t in frames.items()})
        shapes.update({f"{key}.{name}": shape for name, shape in shape_of.items()})
        digests[key] = checksum
    return tensors, metadata(problems, digests, shapes)


def _stored(entry: Entry) -> "tuple[dict[str, Tensor], dict[str, list[int]], str]":
    """The tensors of an entry as stored, the shapes of those that are coded, and its checksum."""
    tensors, shapes = {}, {}
    for name, tensor in sorted(entry.items()):
        frame = coding.coded(tensor)
        tensors[name] = tensor.contiguous() if frame is None else frame
        if frame is not None:
            shapes[name] = list(tensor.shape)
    return tensors, shapes, digest(entry)


def metadata(
    problems: Mapping[str, str], digests: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """What `About` reads: the metadata of a shard, in which entries and names are sorted."""
    about: dict[str, Any] = {"problems": dict(sorted(problems.items())), "digests": dict(digests)}
    if shapes:
        about |= {"coding": coding.NAME, "shapes": {n: list(s) for n, s in shapes.items()}}
    return {ABOUT: json.dumps(about)}


def digest(entry: Entry) -> str:
    """Checksum over names, dtypes, shapes and bytes of an entry's tensors."""
    import torch

    return digest_of(
        (name, str(t.dtype), tuple(t.shape),
         t.contiguous().view(torch.uint8).numpy().data if t.numel() else b"")
        for name, t in sorted(entry.items())
    )  # fmt: skip


def digest_of(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Checksum over name, dtype as torch names it, shape and bytes of each tensor, sorted by
    name."""
    h = blake2b(digest_size=16)
    for name, dtype, shape, data in tensors:
        h.update(f"{name} {dtype} {shape}".encode())
        h.update(data)
    return h.hexdigest()


def is_finite(entry: Entry) -> bool:
    """Whether no tensor of an entry holds NaN or infinity."""
    import torch  # not before: counting entries needs none

    return all(bool(torch.isfinite(t).all()) for t in entry.values() if t.is_floating_point())


def is_readable(path: Path) -> bool:
    """Whether the file is a shard whose metadata names sd3tune."""
    try:
        described(path)
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
        described(path)
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
    if (name := data.get("coding", coding.NAME)) != coding.NAME:
        raise Foreign(f"a newer sd3tune wrote it, with the coding {name!r:.40}")
    return About(_texts(data, "problems"), _texts(data, "digests"), _shapes(data))


def _shapes(data: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found = data.get("shapes", {})
    if not (isinstance(found, dict) and all(map(_is_shape, found.values()))):
        raise ValueError(f"its metadata `{ABOUT}` is damaged at `shapes`")
    return {name: tuple(shape) for name, shape in found.items()}


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**31 for n in value)


def _texts(data: Mapping[str, Any], name: str) -> dict[str, str]:
    found = data.get(name, {})
    if not (isinstance(found, dict) and all(isinstance(v, str) for v in found.values())):
        raise ValueError(f"its metadata `{ABOUT}` is damaged at `{name}`")
    return found
