"""The bytes of safetensors files, as the library writes them, so that they are hashed while they
are written. The library copies every tensor through NumPy, and its file had to be read again.

Format: https://github.com/huggingface/safetensors#format. Tensors that are not contiguous are
refused, because writing them would need a copy.
"""

import ctypes
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Buffer = bytes | ctypes.Array[ctypes.c_char]

# As safetensors names them, in the order in which it writes them: the most strictly aligned first.
# Look again when safetensors gets new ones (its enum `Dtype`; read in 0.8.0).
NAMES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64",
    torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ORDER = {dtype: place for place, dtype in enumerate(NAMES)}


def contents(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> list[Buffer]:
    """The bytes of the file, in pieces. about: its metadata, written in order (the library's own
    order changes from run to run). Nothing is copied: the tensors must live and stay as they are
    while the pieces are in use. Raises ValueError for a tensor on another device than the CPU,
    or one that is not contiguous."""
    tensors = _ordered(tensors)
    return [_header(tensors, about), *(_memory(name, t) for name, t in tensors.items() if t.nbytes)]


def _ordered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(sorted(tensors.items(), key=lambda i: (ORDER[i[1].dtype], i[0])))


def _header(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {} if about is None else {"__metadata__": dict(sorted(about.items()))}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.nbytes
        shape = list(tensor.shape)
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _memory(name: str, tensor: Tensor) -> Buffer:
    if not tensor.is_cpu or not tensor.is_contiguous():
        raise ValueError(f"`{name}` is not a contiguous tensor on the CPU")
    # NumPy takes five times as long to give a buffer, and has no bfloat16.
    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
