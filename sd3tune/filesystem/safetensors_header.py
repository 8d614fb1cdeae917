"""The header of a safetensors file, read without its weights: names, shapes, metadata.

Format: https://github.com/huggingface/safetensors#format. Everything that the library refuses is
refused here. Some files that the library accepts are refused too, such as one that names a tensor
twice, because no program writes them on purpose.

The library's safe_open checks each file as well (`_check_with_library`) and is not enough alone: it
takes a file that names a tensor twice, reads BF16 values through torch only, which these commands
do not load, does not say where in the file a tensor lies, and its refusals do not say what else the
file is. Look again when safetensors has a reader of headers for Python.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sd3tune import deferred
from sd3tune.errors import ModelError
from sd3tune.filesystem import opening

LARGEST = 100_000_000  # bytes of a header, safetensors' own limit
MOST_TENSORS = 100_000  # SD3.5 large with all its encoders has some 3000
MOST_DIMENSIONS = 64  # torch's own limit
NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "U8": "<B"}
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64,
        "I64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8,
        "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # fmt: skip
STRANGERS = {  # first bytes of another format -> what the file is, what to do
    b"PK\x03\x04": ("a PyTorch pickle, which can run code", "convert it to safetensors first"),
    b"\x80": ("a pickle, which can run code", "convert it to safetensors first"),
    b"GGUF": ("a GGUF file", "take the safetensors file of the same model"),
    b"version https://git-lfs": ("a git-lfs pointer, not the file", "run `git lfs pull`"),
    b"<": ("a web page", "download the file itself; gated ones need `hf auth login`"),
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its dtype as safetensors names it, its shape, and its bytes within the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    def number(self, name: str) -> float:
        """The value of a tensor with one element. Raises ModelError for any other tensor, and for
        NaN and infinity."""
        entry = self.tensors[name]
        hint = "the file is damaged, or a program sd3tune does not know wrote it"
        if entry.elements != 1 or entry.dtype not in (*NUMBERS, "BF16"):
            words = f"`{self.path}`: `{name}` is {entry.dtype} {list(entry.shape)}, not one number"
            raise ModelError(words, hint=hint)
        with opening.opened(self.path) as f:
            f.seek(entry.begin)
            data = f.read(entry.end - entry.begin)
        if entry.dtype == "BF16":  # float32 without its lower half
            value = struct.unpack("<f", b"\0\0" + data)[0]
        else:
            value = struct.unpack(NUMBERS[entry.dtype], data)[0]
        if not math.isfinite(value):
            raise ModelError(f"`{self.path}`: `{name}` is {value}", hint=hint)
        return float(value)


def read(path: Path) -> Header:
    """The header of a complete safetensors file. Raises ModelError for any other file."""
    try:
        with opening.opened(path) as f:
            size = opening.size(path)
            text = _text(path, f, size)
    except OSError as e:
        hint = "give the path of a .safetensors file"
        raise ModelError(f"`{path}` cannot be read: {e.strerror or e}", hint=hint) from None
    try:
        data = opening.parsed(text, unique=True)
        header = _header(path, data, size - 8 - len(text), 8 + len(text))
    except ValueError as e:
        raise _damaged(path, f"has a damaged header: {e}") from None
    _check_with_library(path)
    return header


def _text(path: Path, f: BinaryIO, size: int) -> bytes:
    start = f.read(64)
    _refuse_strangers(path, start)
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > min(LARGEST, size - 8):
        raise _damaged(path, "is not a safetensors file, or only its beginning")
    f.seek(8)
    return f.read(length)


def _check_with_library(path: Path) -> None:
    """Lets the library check the file as well."""
    from safetensors import SafetensorError, safe_open

    try:
        # It imports NumPy to read a header too (0.8): 0.1 s.
        with deferred.briefly("numpy"), safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as e:
        reason = str(e).removeprefix("Error while deserializing header: ")
        raise _damaged(path, f"has a damaged header: {reason}") from None


def _header(path: Path, data: Any, room: int, start: int) -> Header:
    """room: bytes after the header, which begins at `start`. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError("it is not an object")
    metadata = data.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text")
    if len(data) > MOST_TENSORS:
        raise ValueError(f"it names {len(data):,} tensors; the limit is {MOST_TENSORS:,}")
    tensors = {name: _entry(name, entry, start) for name, entry in data.items()}
    at = start
    for name, entry in sorted(tensors.items(), key=lambda i: (i[1].begin, i[1].end)):
        if entry.begin != at:
            raise ValueError(f"the bytes of `{name}` do not follow those before")
        at = entry.end
    if at != start + room:
        raise ValueError(f"the file is {start + room:,} bytes long where its header says {at:,}")
    return Header(path, tensors, metadata)


def _entry(name: str, entry: Any, start: int) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"`{name}` needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise ValueError(f"`{name}` has an unusable dtype, shape or data_offsets")
    begin, end = offsets
    # For a dtype that only a newer safetensors knows, trust the stated length.
    bits = BITS[dtype] * math.prod(shape) if dtype in BITS else 8 * (end - begin)
    if begin > end or bits != 8 * (end - begin):
        raise ValueError(f"`{name}` is {dtype} {shape} in {end - begin:,} bytes")
    return TensorEntry(dtype, tuple(shape), start + begin, start + end)


def _counts(values: Any) -> bool:
    short = isinstance(values, list) and len(values) <= MOST_DIMENSIONS
    return short and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _refuse_strangers(path: Path, start: bytes) -> None:
    for magic, (what, hint) in STRANGERS.items():
        # A safetensors header of 128 bytes also begins with 0x80, but zeros follow.
        if start.startswith(magic) and start[4:8] != b"\0\0\0\0":
            raise ModelError(f"`{path}` is {what}", hint=hint)


def _damaged(path: Path, words: str) -> ModelError:
    return ModelError(f"`{path}` {words}", hint="copy or download it again")
