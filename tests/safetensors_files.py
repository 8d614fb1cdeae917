"""A safetensors file written by hand, for tests without torch."""

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path


def write(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    numbers: Mapping[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Zeros in float16 of those shapes, and float32 scalars of those values."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, value in (numbers or {}).items():
        header[name] = {"dtype": "F32", "shape": [], "data_offsets": [len(data), len(data) + 4]}
        data += struct.pack("<f", value)
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        offsets = [len(data), len(data) + size]
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": offsets}
        data += bytes(size)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
