"""EXIF data behind the pixels of a PNG, where ExifTool writes them.

Pillow reads them only after it has decoded all pixels.
"""

import os
from typing import BinaryIO
from zlib import crc32

from PIL import Image

END_BYTES = 2**17  # of the file that are searched: EXIF data has 64 KiB at most in a JPEG
CHUNK = b"eXIf"


def exif_at_the_end(stream: BinaryIO) -> Image.Exif:
    """The EXIF data of the last such chunk; empty if there is none. Raises OSError, and what Pillow
    raises for broken data."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - END_BYTES))
    end = stream.read(END_BYTES)
    exif, at = Image.Exif(), len(end)
    while (at := end.rfind(CHUNK, 4, at)) > 0:
        body = at + int.from_bytes(end[at - 4 : at], "big") + 4
        if int.from_bytes(end[body : body + 4], "big") == crc32(end[at:body]):
            exif.load(end[at + 4 : body])
            break
    return exif
