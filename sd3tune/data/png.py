"""EXIF data behind the pixels of a PNG, where ExifTool writes them.

Pillow reads them only after it has decoded all pixels.
"""

import os
from typing import TYPE_CHECKING, BinaryIO
from zlib import crc32

if TYPE_CHECKING:
    from PIL import Image

END_BYTES = 2**17  # of the file that are searched: EXIF data has 64 KiB at most in a JPEG
CHUNK = b"eXIf"


def may_have_exif_at_the_end(stream: BinaryIO) -> bool:
    """False: `exif_at_the_end` would be empty. Raises OSError."""
    return CHUNK in _end(stream)


def exif_at_the_end(stream: BinaryIO) -> "Image.Exif":
    """The EXIF data of the last such chunk; empty if there is none. Raises OSError, and what Pillow
    raises for broken data."""
    from PIL import Image

    end = _end(stream)
    exif, at = Image.Exif(), len(end)
    while (at := end.rfind(CHUNK, 4, at)) > 0:
        body = at + int.from_bytes(end[at - 4 : at], "big") + 4
        if int.from_bytes(end[body : body + 4], "big") == crc32(end[at:body]):
            exif.load(end[at + 4 : body])
            break
    return exif


def _end(stream: BinaryIO) -> bytes:
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - END_BYTES))
    return stream.read(END_BYTES)
