"""Reads the size of a JPEG XL image from its first bytes.

Pillow's plugin decodes all pixels when it opens a file, so the size must be known before that.

Layout: ISO/IEC 18181-1, SizeHeader and ImageMetadata; 18181-2, boxes. Bits come lowest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

CODESTREAM = b"\xff\x0a"
ENOUGH_BYTES = 128  # enough of a codestream for the fields read here
MOST_BOXES = 1000
# width : height, in the order of the format's numbers for ratios.
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
Choice = tuple[int, int]  # number of bits to read, and an offset to add


class NoHeader(Exception):
    """The bytes are not a JPEG XL image."""


@dataclass(frozen=True)
class JxlHeader:
    size: tuple[int, int]  # as stored: before its orientation is applied
    channels: int  # colours, alpha and others; each is decoded at full size


def starts(prefix: bytes) -> bool:
    """Whether the plugin would accept a file with these first 12 bytes."""
    return prefix[:2] == CODESTREAM or prefix[4:7] == b"JXL"


def header(stream: BinaryIO) -> JxlHeader:
    """The header, from the current position of `stream`. Raises NoHeader."""
    bits = _Bits(_codestream(stream))
    if bits.take(16) != 0x0AFF:
        raise NoHeader("it does not contain a JPEG XL image")
    return JxlHeader(_size(bits), 3 + _extra_channels(bits))


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise NoHeader("its JPEG XL header is cut off")
        found = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return found

    def flag(self) -> bool:
        return self.take(1) == 1

    def choose(self, choices: Sequence[Choice]) -> int:
        """A number of type U32 of the standard: two bits select one of four encodings."""
        count, offset = choices[self.take(2)]
        return self.take(count) + offset


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()

    def side() -> int:
        if small:
            return 8 * (bits.take(5) + 1)
        return bits.choose(((9, 1), (13, 1), (18, 1), (30, 1)))

    height = side()
    ratio = bits.take(3)
    return (_by_ratio(height, ratio) if ratio else side()), height


def _by_ratio(height: int, ratio: int) -> int:
    across, down = RATIOS[ratio - 1]
    return height * across // down


def _extra_channels(bits: _Bits) -> int:
    if bits.flag():  # everything is as usual
        return 0
    if bits.flag():  # extra fields
        bits.take(3)  # orientation
        if bits.flag():
            _size(bits)  # the size to show it in
        if bits.flag():
            _preview(bits)
        if bits.flag():  # animation: ticks, their denominator, loops, time codes
            bits.choose(((0, 100), (0, 1000), (10, 1), (30, 1)))
            bits.choose(((0, 1), (0, 1001), (8, 1), (10, 1)))
            bits.choose(((0, 0), (3, 0), (16, 0), (32, 0)))
            bits.flag()
    if bits.flag():  # floats
        bits.choose(((0, 32), (0, 16), (0, 24), (6, 1)))
        bits.take(4)
    else:
        bits.choose(((0, 8), (0, 10), (0, 12), (6, 1)))
    bits.flag()  # whether 16 bits are enough for the buffers
    return bits.choose(((0, 0), (0, 1), (4, 2), (12, 1)))


def _preview(bits: _Bits) -> None:
    small = bits.flag()
    large: tuple[Choice, ...] = ((6, 1), (8, 65), (10, 321), (12, 1345))
    sides = ((0, 16), (0, 32), (5, 1), (9, 33)) if small else large
    bits.choose(sides)
    if not bits.take(3):
        bits.choose(sides)


def _codestream(stream: BinaryIO) -> bytes:
    """The first bytes of the codestream, which may be stored in the boxes of a container."""
    start = stream.tell()
    if stream.read(2) == CODESTREAM:
        return CODESTREAM + stream.read(ENOUGH_BYTES)
    stream.seek(start)
    found = b""
    for _ in range(MOST_BOXES):
        at = stream.tell()
        size, kind = int.from_bytes(stream.read(4), "big"), stream.read(4)
        if len(kind) < 4:
            break
        if size == 1:
            size = int.from_bytes(stream.read(8), "big")
        body = stream.tell()
        end = at + size if size else None  # 0: it ends with the file
        if kind == b"jxlp":  # a part, after its number
            body = stream.seek(body + 4)
        if kind in (b"jxlc", b"jxlp"):
            have = ENOUGH_BYTES if end is None else max(0, min(ENOUGH_BYTES, end - body))
            found += stream.read(have)
            if kind == b"jxlc" or len(found) >= ENOUGH_BYTES:
                break
        if end is None or end < body:
            break
        stream.seek(end)
    return found
