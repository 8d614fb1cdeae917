"""Shards as bytes, for the commands that look after a cache: entries are compared with their
checksums, and copied into a smaller shard, without torch.

What a run trains on is read by shards.py, with the same checksums.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.data import coding, shards
from sd3tune.data.shards import CHANGED, UNREADABLE, Damage, Foreign, Shard
from sd3tune.errors import DataError, ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.filesystem.safetensors_header import BITS

# safetensors' name of a dtype -> torch's, by which checksums know it.
DTYPES = {"BOOL": "torch.bool", "U8": "torch.uint8", "I8": "torch.int8", "I16": "torch.int16",
          "I32": "torch.int32", "I64": "torch.int64", "F16": "torch.float16",
          "BF16": "torch.bfloat16", "F32": "torch.float32", "F64": "torch.float64"}  # fmt: skip
NUMBERS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # NumPy's names
INFINITE = 0x7F80  # bits of the exponent of bfloat16: all set in infinity and NaN
ALIGNED = 8  # bytes; a header is padded to them


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it lies in the file: a coded one is a frame of bytes."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Copy:
    """A shard with some of the entries of another one."""

    data: bytes
    keys: tuple[str, ...]


def damage(path: Path) -> Damage | None:
    """Reads a shard completely. None if it is intact or of another program. Raises DataError if
    this user may not read it."""
    try:
        shard = shards.described(path)
        stored = _stored(path)
        decoded = {key: list(_entry(shard, stored, key)) for key in shard.names}
    except Foreign:
        return None
    except PermissionError as e:
        raise DataError(
            f"`{path}` cannot be read: {e.strerror}",
            hint="ask its owner for permission (`chmod g+r`); nothing was removed",
        ) from None
    except UNREADABLE as e:
        return Damage(path, f"cannot be read: {e}", 0)
    count = len(shard.names) + len(shard.about.problems)
    if {key: _digest(entry) for key, entry in decoded.items()} != shard.about.digests:
        return Damage(path, CHANGED, count)
    if not all(map(_is_finite, decoded.values())):
        return Damage(path, "it holds NaN or infinity", count)
    return None


def copied(path: Path, wanted: Set[str]) -> Copy:
    """A shard with the wanted entries whose content matches their checksum, and the problems of
    wanted keys. Raises OSError, SafetensorError, and ValueError for a damaged shard."""
    shard, stored = shards.described(path), _stored(path)
    about = shard.about
    kept = sorted(key for key in shard.names.keys() & wanted
                  if _digest(_entry(shard, stored, key)) == about.digests.get(key))  # fmt: skip
    names = [name for key in kept for name in sorted(shard.names[key])]
    written = shards.metadata(
        {key: why for key, why in about.problems.items() if key in wanted},
        {key: about.digests[key] for key in kept},
        {name: about.shapes[name] for name in names if name in about.shapes},
    )
    return Copy(_serialised({name: stored[name] for name in names}, written), tuple(kept))


def _serialised(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. Format: https://github.com/huggingface/safetensors#format"""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at, largest_first = 0, sorted(tensors, key=lambda n: (-BITS[tensors[n].dtype], n))
    for name in largest_first:  # so that every number lies at a multiple of its size
        tensor = tensors[name]
        end = at + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    data = b"".join(tensors[name].data for name in largest_first)
    return len(text).to_bytes(8, "little") + text + data


def _stored(path: Path) -> dict[str, StoredTensor]:
    """Every tensor by its name. Raises OSError, and ValueError for a damaged file."""
    try:
        header = safetensors_header.read(path)
    except ModelError as e:
        raise ValueError(str(e)) from None
    found = {}
    with path.open("rb") as file:
        for name, entry in header.tensors.items():
            if entry.dtype not in DTYPES:
                raise ValueError(f"a cache has no tensor of the type {entry.dtype:.20}")
            file.seek(entry.begin)
            data = file.read(entry.end - entry.begin)
            found[name] = StoredTensor(entry.dtype, entry.shape, data)
    return found


def _entry(
    shard: Shard, stored: dict[str, StoredTensor], key: str
) -> Iterator[tuple[str, StoredTensor]]:
    """Name and decoded tensor of an entry, sorted by name. Raises ValueError for a coded tensor
    that is damaged."""
    for name in sorted(shard.names[key]):
        own, tensor = name.partition(".")[2], stored[name]
        if (shape := shard.about.shapes.get(name)) is not None:
            if tensor.dtype != "U8" or len(tensor.shape) != 1:
                raise coding.BadCoding(f"a coded tensor has shape {shape} in {tensor.dtype}")
            data = coding.decoded_values(tensor.data, shape).tobytes()
            tensor = StoredTensor("BF16", shape, data)
        yield own, tensor


def _digest(entry: Iterable[tuple[str, StoredTensor]]) -> str:
    return shards.digest_of((name, DTYPES[tensor.dtype], tensor.shape, tensor.data)
                            for name, tensor in entry)  # fmt: skip


def _is_finite(entry: Iterable[tuple[str, StoredTensor]]) -> bool:
    """Whether no tensor of an entry holds NaN or infinity."""
    import numpy as np

    for _, tensor in entry:
        if tensor.dtype == "BF16":
            finite = np.frombuffer(tensor.data, "<u2") & INFINITE != INFINITE
        elif tensor.dtype in NUMBERS:
            finite = np.isfinite(np.frombuffer(tensor.data, NUMBERS[tensor.dtype]))
        else:
            continue
        if not finite.all():
            return False
    return True
