"""What a safetensors file says about itself, read without its weights: names, shapes, metadata.

Format: https://github.com/huggingface/safetensors#format. Refuses anything else by what it is.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError

LARGEST = 100_000_000  # bytes of a header, safetensors' own limit
NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "U8": "<B"}
STRANGERS = {  # first bytes -> what it is, what to do
    b"PK\x03\x04": ("a PyTorch pickle, which can run code", "convert it to safetensors first"),
    b"\x80": ("a pickle, which can run code", "convert it to safetensors first"),
    b"GGUF": ("a GGUF file", "take the safetensors file of the same model"),
    b"version https://git-lfs": ("a git-lfs pointer, not the file", "run `git lfs pull`"),
    b"<": ("a web page", "download the file itself; gated ones need `hf auth login`"),
}


@dataclass(frozen=True)
class Entry:
    """One tensor: safetensors' name of its type, its shape, its bytes within the file."""

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
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def number(self, name: str) -> float:
        """The value of a tensor with one element."""
        entry = self.tensors[name]
        with self.path.open("rb") as f:
            f.seek(entry.begin)
            data = f.read(entry.end - entry.begin)
        if entry.elements == 1 and entry.dtype == "BF16":  # float32 without its lower half
            return float(struct.unpack("<f", b"\0\0" + data)[0])
        if entry.elements == 1 and entry.dtype in NUMBERS:
            return float(struct.unpack(NUMBERS[entry.dtype], data)[0])
        words = f"`{self.path}`: `{name}` is {entry.dtype} {list(entry.shape)}, not one number"
        raise ModelError(words, hint="the file was written by a program sd3tune does not know")


def read(path: Path) -> Header:
    """Raises ModelError for what is no whole safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            start = f.read(64)
            _refuse_strangers(path, start)
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(LARGEST, size - 8):
                raise _damaged(path, "is no safetensors file, or only its beginning")
            f.seek(8)
            data = json.loads(f.read(length))
    except OSError as e:
        hint = "give the path of a .safetensors file"
        raise ModelError(f"`{path}` cannot be read: {e.strerror or e}", hint=hint) from None
    except ValueError:
        raise _damaged(path, "has a damaged header") from None
    return _header(path, data, 8 + length, size)


def _header(path: Path, data: Any, start: int, size: int) -> Header:
    try:
        metadata = data.pop("__metadata__", {})
        tensors = {
            name: Entry(e["dtype"], tuple(e["shape"]), *(start + n for n in e["data_offsets"]))
            for name, e in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _damaged(path, "has a damaged header") from None
    end = max([start, *(e.end for e in tensors.values())])
    if end != size:
        raise _damaged(path, f"is {size:,} bytes long where its header says {end:,}")
    return Header(path, tensors, metadata)


def _refuse_strangers(path: Path, start: bytes) -> None:
    for magic, (what, hint) in STRANGERS.items():
        # A header of 128 bytes begins with 0x80 too, and then with zeros.
        if start.startswith(magic) and start[4:8] != b"\0\0\0\0":
            raise ModelError(f"`{path}` is {what}", hint=hint)


def _damaged(path: Path, words: str) -> ModelError:
    return ModelError(f"`{path}` {words}", hint="copy or download it again")
