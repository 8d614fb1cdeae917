"""The size of an ordinary PNG from its first bytes, without Pillow. Whatever is not ordinary is
left to Pillow (`size` returns None), so that the same files are accepted, with the same sizes and
reasons. Orientations are not read here: a file that may state one is not ordinary.
"""

import struct
import zlib
from zlib import crc32

Size = tuple[int, int]  # width, height

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER, PIXELS, TEXT, TRANSPARENCY = b"IHDR", b"IDAT", b"tEXt", b"tRNS"
# Bits of a sample, kind of colour: all that Pillow reads.
KINDS = {(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3),
         (8, 4), (16, 4), (8, 6), (16, 6)}  # fmt: skip
PALETTE = 3
PROFILE, PROFILE_BYTES = b"iCCP", 2**20  # of colours; how long Pillow lets it be
# Chunks that say nothing about size and orientation, and how long Pillow wants them at least.
LEAST_BYTES = {b"PLTE": 0, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"pHYs": 9, b"tIME": 0, b"bKGD": 0,
               b"sBIT": 0, b"hIST": 0, TRANSPARENCY: 6}  # fmt: skip
# Keywords of texts that Pillow takes for orientations or for its own notes.
MEANT = (b"exif", b"xmp", b"bbox", b"Raw profile", b"XML:com.adobe.xmp")


def size(first: bytes) -> Size | None:
    """Width and height as a viewer shows them. first: the beginning of the file, as long as needed
    up to its first pixels. None if the file is longer up to there, or not ordinary."""
    if not first.startswith(SIGNATURE + b"\0\0\0\x0d" + HEADER):
        return None
    at, end, found, palette = len(SIGNATURE), len(first), None, False
    while at + 8 <= end:
        length, kind = int.from_bytes(first[at : at + 4], "big"), first[at + 4 : at + 8]
        data, at = first[at + 8 : at + 8 + length], at + 12 + length
        if kind == PIXELS:
            return found
        if at > end or crc32(data, crc32(kind)) != int.from_bytes(first[at - 4 : at], "big"):
            return None
        if kind == HEADER and found is None:
            found = _size(data)
            palette = data[9] == PALETTE
        elif not _is_ordinary(kind, data, palette=palette):
            return None
    return None


def _size(data: bytes) -> Size | None:
    width, height, bits, colour, _, filtering = struct.unpack(">IIBBBB", data[:12])
    usable = width and height and (bits, colour) in KINDS and not filtering
    return (width, height) if usable else None


def _is_ordinary(kind: bytes, data: bytes, *, palette: bool) -> bool:
    """Whether a chunk says nothing about size and orientation, and Pillow reads it without an
    error. palette: the colours are those of a palette."""
    if kind == TEXT:
        return not data.startswith(MEANT)
    if kind == PROFILE:
        return _is_ordinary_profile(data)
    if kind == TRANSPARENCY and palette:
        return True
    return (
        kind in LEAST_BYTES
        and len(data) >= LEAST_BYTES[kind]
        and (kind != b"cHRM" or len(data) % 4 == 0)
    )


def _is_ordinary_profile(data: bytes) -> bool:
    """Whether it is compressed as it must be, and not longer than Pillow takes."""
    name, _, rest = data.partition(b"\0")
    if not (name and rest.startswith(b"\0")):  # the only method of compression
        return False
    reader = zlib.decompressobj()
    try:
        reader.decompress(rest[1:], PROFILE_BYTES)
    except zlib.error:
        return False
    return not reader.unconsumed_tail
