"""Escapes text of other people for printing: names of files, captions, metadata, messages of
libraries.

A terminal obeys control characters: they move the cursor, set titles and write to the clipboard
(ESC, OSC), or turn the direction of reading so that a name looks like another (bidi). They are
shown as escapes, `\\x1b`; letters of every script and emoji stay as they are.
"""

import logging
import re
import sys
import traceback
import unicodedata
import warnings
from io import TextIOWrapper
from typing import Any

# Controls, halves of characters (names that are not UTF-8), ends of lines and of paragraphs, and
# what is invisible (bidi, zero width, tags).
ESCAPED = ("Cc", "Cs", "Zl", "Zp", "Cf")
# Cf that can be seen: signs that span numbers or end a verse.
VISIBLE = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
# Cf that Hindi, Persian and emoji are written with; after the letters of others they are invisible.
JOINERS = {0x200C, 0x200D}
JOINED = ("Lo", "Mn", "Mc", "So", "Sk")

# A key or value of a file that nobody wrote by hand; names of files have 255 bytes at most. A list
# with commas is no word: the UUIDs of eight cards are there to be copied.
LONG_WORD = re.compile(r"[^\s/`'\"=:,]{256,}")
WORD_SHOWN = 79
LONGEST = 2000  # characters of a sentence: the name of a tensor may be a megabyte


def one_line(words: object) -> str:
    """Ends of lines are escaped too: a name cannot make a line of its own."""
    text = str(words)
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text, " " + text))


def printable(text: str) -> str:
    """Text of several lines, which keeps its line ends and tabs."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def shortened(text: str) -> str:
    """Text whose long words are cut. No name of a file is that long, so paths stay whole."""
    return LONG_WORD.sub(lambda match: f"{match[0][:WORD_SHOWN]}…", text)


def sentence(words: object) -> str:
    """One line of what may have been several, as libraries write, and not a novel."""
    line = one_line(shortened(" ".join(str(words).split())))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


class ReaderGone(Exception):
    """The reader of stdout has closed it (`| head`). Not an OSError, because click exits with 1 on
    those."""


def echo(text: str, *, err: bool = False) -> None:
    """To stdout or stderr. What the terminal cannot show becomes an escape too. Raises
    ReaderGone."""
    try:
        print(printable(text), file=sys.stderr if err else sys.stdout, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def prepare() -> None:
    """Of this process: streams take every character, and what libraries log or warn of is escaped
    as well. Programs in other languages that write to the terminal themselves are out of reach."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_Escaped)
    warnings.formatwarning = _warning


class _Escaped(logging.LogRecord):
    """exc_text and stack_info: what a Formatter prints below the message."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info)).rstrip())
        if self.stack_info:
            self.stack_info = printable(self.stack_info)

    def getMessage(self) -> str:
        return printable(super().getMessage())


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: object = None
) -> str:
    return f"{one_line(filename)}:{lineno}: {category.__name__}: {printable(str(message))}\n"


def _shown(character: str, before: str) -> str:
    number = ord(character)
    joins = number in JOINERS and unicodedata.category(before) in JOINED
    if joins or number in VISIBLE or unicodedata.category(character) not in ESCAPED:
        return character
    return character.encode("unicode_escape").decode("ascii")
