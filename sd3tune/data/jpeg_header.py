"""The size of an ordinary JPEG from its first bytes; Pillow takes four times as long, because it
reads every table. Whatever is not ordinary is left to Pillow (`size` returns None), so that the
same files are accepted, with the same sizes and reasons.
"""

import struct

Size = tuple[int, int]  # width, height

SOI, MARKER = b"\xff\xd8", 0xFF
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
SCAN, TABLES, QUANTISATION, EXIF, MORE = 0xDA, (0xC4, 0xDD, 0xFE), 0xDB, 0xE1, 0xE2
QUANTISATION_BYTES = 65  # of an 8-bit table
ORIENTATION, SHORT = 0x0112, 3
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of TIFF
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
JFIF_BYTES = 14


def size(first: bytes) -> Size | None:
    """Width and height as a viewer shows them. first: the beginning of the file, as long as needed
    up to its first scan. None if the file is longer up to there, or not ordinary."""
    if not first.startswith(SOI):
        return None
    at, end, has_exif, orientation = 2, len(first), False, 1
    frame: Size | None = None
    while at + 4 <= end and first[at] == MARKER:
        kind, after = first[at + 1], at + 2 + (first[at + 2] << 8 | first[at + 3])
        if after > end or after < at + 4:
            return None
        if kind == SCAN:
            break
        if kind in FRAMES and frame is None:
            frame = _frame(first[at + 4 : after])
            if frame is None:
                return None
        elif kind == EXIF and first.startswith(b"Exif\0\0", at + 4) and not has_exif:
            found = _orientation(first[at + 10 : after])
            if found is None:
                return None
            orientation, has_exif = found, True
        elif kind not in TABLES and not _is_ordinary(kind, first[at + 4 : after]):
            return None
        at = after
    else:
        return None
    if frame is None:
        return None
    return frame[::-1] if orientation in TURNED else frame


def _frame(data: bytes) -> Size | None:
    if len(data) < 6:
        return None
    bits, height, width, layers = struct.unpack(">BHHB", data[:6])
    ordinary = bits == 8 and layers in (1, 3, 4) and len(data) == 6 + 3 * layers
    return (width, height) if ordinary and width and height else None


def _is_ordinary(kind: int, data: bytes) -> bool:
    """Whether a segment says nothing about the size, and Pillow reads it without an error."""
    if kind == QUANTISATION:
        tables = range(0, len(data), QUANTISATION_BYTES)
        return len(data) % QUANTISATION_BYTES == 0 and all(data[i] < 16 for i in tables)
    if kind == 0xE0:
        return not data.startswith(b"JFIF") or len(data) >= JFIF_BYTES
    if kind == EXIF:  # XMP may state an orientation; a second EXIF continues the first
        return not data.startswith(b"Exif") and b"Orientation" not in data
    if kind == MORE:  # profiles; several images in one file are Pillow's business
        return data.startswith(b"ICC_PROFILE\0") and len(data) > JFIF_BYTES
    return 0xE3 <= kind <= 0xEF and kind != 0xED  # those are Photoshop's, with a structure


def _orientation(tiff: bytes) -> int | None:
    """The orientation in EXIF data, 1 if they state none; None if they are not ordinary."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack(f"{order}I", tiff[4:8])
    if start < 8 or start + 2 > len(tiff):
        return None
    (count,) = struct.unpack(f"{order}H", tiff[start : start + 2])
    if start + 2 + 12 * count > len(tiff):
        return None
    found = None
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values, where = struct.unpack(f"{order}HHII", tiff[at : at + 12])
        if kind not in VALUE_BYTES:
            return None
        length = VALUE_BYTES[kind] * values
        if length > 4 and where + length > len(tiff):  # Pillow reads no entry after this one
            return None
        if tag == ORIENTATION:
            if found is not None or kind != SHORT or values != 1:
                return None
            (found,) = struct.unpack(f"{order}H", tiff[at + 8 : at + 10])
    return 1 if found is None else int(found)
