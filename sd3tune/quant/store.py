"""Quantised modules on disk, so that the next start reads them instead of making them.

One safetensors file for each (weights, scheme, patterns, dtypes, versions): its name is the hash of
all that. It is written beside its place, synced and renamed, and every tensor carries a checksum;
a file that is damaged is not used. What is read equals what was quantised bit for bit.
"""

import json
import re
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sd3tune.filesystem import drafts, opening
from sd3tune.quant.patterns import Patterns
from sd3tune.tables.schemes import SCHEMES
from sd3tune.tables.table import load as load_reference

FORMAT = "1"
CHECKSUMS = "checksums"  # the one metadata key
DRAFT = re.compile(r"[0-9a-f]{32}(\.\d+)?\.draft")  # with the number of a process: before 0.2
OLD_SECONDS = 24 * 3600


def place(folder: Path, identity: str, scheme: str, which: Patterns, **how: str) -> Path:
    """Where a quantised module is kept. identity: of the weights; how: everything else that
    changes a bit of the result (dtypes, the device of the arithmetic)."""
    library = SCHEMES[scheme].library
    asked = [FORMAT, identity, scheme, which, library, version(library), sorted(how.items())]
    name = blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()
    return folder / f"{name}.safetensors"


def save(module: Any, path: Path) -> str | None:
    """Writes what `quant.apply` made of a module; why it could not be written, or None. A module
    whose buffers are not all in its state_dict cannot be restored from it and must not come here.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafts.drafted_by_name(draft) as written:
            if written is not None:  # None: another process is keeping the same
                about = {CHECKSUMS: json.dumps(_checksums(state))}
                save_file(state, written, metadata=about)
                drafts.settle(written, path)
    except (OSError, SafetensorError) as e:  # a full disk must not end the run
        return str(e)
    _clear(path.parent)
    return None


def _clear(folder: Path) -> None:
    """Drafts of killed writers. Versions before 0.2 took no lock: theirs go when they are old."""
    for draft in folder.glob("*.draft"):
        if (match := DRAFT.fullmatch(draft.name)) is None:
            continue
        with suppress(OSError):
            if match[1] is None or time.time() - draft.lstat().st_mtime > OLD_SECONDS:
                drafts.clear(draft)


def load(module: Any, path: Path, scheme: str, which: Patterns, fp8: str) -> bool:
    """Gives a module on the meta device the weights kept at `path`, on the CPU, frozen. False when
    there is no whole file: the module must then not be used."""
    try:
        state = _read(path)
        if state is None:
            return False
        _restore(module, state, scheme, which, fp8)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        # Whatever a damaged file makes the libraries raise: it will be made again.
        return False
    _clear(path.parent)
    module.requires_grad_(False)
    return not any(t.is_meta for t in [*module.parameters(), *module.buffers()])


def _restore(
    module: Any, state: Mapping[str, Tensor], scheme: str, which: Patterns, fp8: str
) -> None:
    row = SCHEMES[scheme]
    missing, unexpected = load_reference(row.restore)(module, row, which, fp8, state)
    if [k for k in missing if not k.endswith(".weight")] or unexpected:
        raise KeyError(f"{missing} {unexpected}")


def _read(path: Path) -> dict[str, Tensor] | None:
    if not opening.is_regular(path):
        return None
    with safe_open(path, framework="pt") as file:
        expected = json.loads(file.metadata()[CHECKSUMS])
        # Copies: where a tensor begins in the file is where it would begin in memory, and products
        # of unaligned tensors add in another order than those of freshly quantised ones.
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return state if _checksums(state) == expected else None


def _checksums(state: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC-32 of the bytes: against torn disks, not against people."""
    return {k: zlib.crc32(memoryview(_bytes(v))) for k, v in state.items()}


def _bytes(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()
