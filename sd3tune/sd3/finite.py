"""Finds NaN and infinity in a safetensors file: in the weights that a run begins with, they would
spread to everything that the run writes.

The file is read in pieces and compared bit by bit, so that `plan` needs no torch for it.
"""

from collections.abc import Iterator
from pathlib import Path

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.filesystem.safetensors_header import TensorEntry

PIECE_BYTES = 2**24  # a multiple of every size below
# dtype -> bytes of a value, and a mask: a value whose masked bits are all set is NaN or infinity.
# The mask is the exponent. F8_E4M3 has no infinity, and its NaN sets every bit except the sign.
EXPONENTS = {
    "F64": (8, 0x7FF0_0000_0000_0000),
    "F32": (4, 0x7F80_0000),
    "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80),
    "F8_E5M2": (1, 0x7C),
    "F8_E4M3": (1, 0x7F),
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
    import numpy as np  # 0.1 s, and few runs begin with an adapter

    size, exponent = EXPONENTS[dtype]
    kind = np.dtype(f"<u{size}")
    mask = kind.type(exponent)
    return not bool(((np.frombuffer(piece, dtype=kind) & mask) == mask).any())
