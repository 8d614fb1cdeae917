"""Checks the header of a PPM before Pillow reads its comments byte by byte."""

import re
from typing import BinaryIO

MOST_BYTES = 64 * 1024
COMMENT = re.compile(rb"#[^\r\n]*")
TWO_NUMBERS = (b"P1", b"P4")  # bitmaps: width and height, without a largest value


def starts(prefix: bytes) -> bool:
    """Whether Pillow would read a file with these first bytes as PPM."""
    return prefix[:1] == b"P" and prefix[1:2] in (
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
        b"6",
        b"f",
        b"y",
    )


def excess(stream: BinaryIO) -> str | None:
    """The reason why the header at the start of `stream` is too long to read; None if it is not."""
    head = stream.read(MOST_BYTES)
    words = COMMENT.sub(b"", head).split(maxsplit=4)
    wanted = 3 if head[:2] in TWO_NUMBERS else 4
    if len(words) < wanted and len(head) == MOST_BYTES:
        return f"its header is longer than {MOST_BYTES} bytes"
    return None
