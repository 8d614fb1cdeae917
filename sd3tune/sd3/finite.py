"""Finds NaN and infinity in a safetensors file: in the weights that a run begins with, they would
spread to everything that the run writes.

The file is read in pieces and compared bit by bit, so that `plan` needs no torch for it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.filesystem.safetensors_header import TensorEntry

PIECE_BYTES = 2**24  # a multiple of every size below
# dtype -> unsigned integer of the same size, and a mask: a value whose masked bits are all set is
# NaN or infinity. The mask is the exponent. F8_E4M3 has no infinity, and its NaN sets every bit
# except the sign.
EXPONENTS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
}


def check(path: Path) -> safetensors_header.Header:
    """The header of the file. Raises ModelError, which names the tensor, for NaN or infinity."""
    found = safetensors_header.read(path)
    for name, entry in found.tensors.items():
        if not all(_finite(piece, entry.dtype) for piece in _pieces(path, entry)):
            raise ModelError(
                f"`{path}`: tensor `{name}` holds NaN or infinity",
                hint="use an earlier file of the same adapter: this one cannot be repaired",
            )
    return found


def _pieces(path: Path, entry: TensorEntry) -> Iterator[bytes]:
    if entry.dtype not in EXPONENTS:
        return
    with opening.opened(path) as f:
        f.seek(entry.begin)
        for start in range(entry.begin, entry.end, PIECE_BYTES):
            yield f.read(min(PIECE_BYTES, entry.end - start))


def _finite(piece: bytes, dtype: str) -> bool:
    kind, exponent = EXPONENTS[dtype]
    bits = np.frombuffer(piece, dtype=np.dtype(kind).newbyteorder("<"))
    return not bool(((bits & kind(exponent)) == kind(exponent)).any())
