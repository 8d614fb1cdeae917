"""The first directory of a TIFF, looked at before Pillow makes objects of all its numbers."""

import struct
from typing import BinaryIO

ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
MOST_VALUES = 2**20  # strips or tiles of an image: each becomes an object of some hundred bytes
MOST_ENTRIES = 1000
TEXT = (1, 2, 6, 7)  # types that are kept as bytes: metadata of other programs


def excess(stream: BinaryIO) -> str | None:
    """Why the directory of a TIFF that starts `stream` is too much to read; None: it is not."""
    head = stream.read(16)
    order = ORDERS.get(head[:4])
    if order is None:
        return None
    big = head[2:4] in (b"+\0", b"\0+")
    try:
        offset = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        stream.seek(offset)
        wide = 8 if big else 2
        count = int.from_bytes(stream.read(wide), "little" if order == "<" else "big")
        if count > MOST_ENTRIES:
            return f"its directory has {count} entries"
        for _ in range(count):
            entry = stream.read(20 if big else 12)
            tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), entry)
            if values > MOST_VALUES and kind not in TEXT:
                return f"its TIFF tag {tag} has {values} values"
    except (struct.error, OSError, OverflowError, ValueError):
        return None  # cut off: Pillow says how
    return None
