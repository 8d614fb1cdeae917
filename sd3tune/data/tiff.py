"""Checks the first directory of a TIFF before Pillow creates an object for each of its numbers."""

import struct
from typing import BinaryIO

ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
MOST_VALUES = 2**20  # strips or tiles; Pillow makes an object of about 100 bytes for each
MOST_ENTRIES = 1000
TEXT = (1, 2, 6, 7)  # types that Pillow keeps as bytes, such as metadata of other programs
TILE_WIDTH, TILE_LENGTH = 322, 323
WHOLE = {3: "H", 4: "I", 8: "h", 9: "i", 16: "Q", 17: "q"}  # types of whole numbers


def excess(stream: BinaryIO, most_pixels: int) -> str | None:
    """The reason why the directory of a TIFF is too large to read; None if it is not. most_pixels:
    limit for one tile, which is decoded completely even if the image is small."""
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
        tile = {TILE_WIDTH: 0, TILE_LENGTH: 0}
        for _ in range(count):
            entry = stream.read(20 if big else 12)
            tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), entry)
            if values > MOST_VALUES and kind not in TEXT:
                return f"its TIFF tag {tag} has {values} values"
            if tag in tile and kind in WHOLE:
                side = struct.unpack_from(order + WHOLE[kind], entry, 12 if big else 8)[0]
                # A tag may occur twice, and readers differ on which one counts.
                tile[tag] = max(tile[tag], side)
        if tile[TILE_WIDTH] * tile[TILE_LENGTH] > most_pixels:
            return f"its tiles are {tile[TILE_WIDTH]}x{tile[TILE_LENGTH]}"
    except (struct.error, OSError, OverflowError, ValueError):
        return None  # truncated: Pillow reports it
    return None
