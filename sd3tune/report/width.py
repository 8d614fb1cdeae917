"""How wide a line may be, and lines that are broken at that width.

A terminal gets lines as wide as it is; a file or a pipe gets whole lines, so that `grep` finds a
fact on one line. COLUMNS sets the width of both.
"""

import os
import re
import shutil
from collections.abc import Iterator
from typing import TextIO

from rich.cells import cell_len, chop_cells

NARROWEST = 40  # below this, one word a line would be all there is
INDENT = 6  # of a continued line, or two more than the line's own


def columns(stream: TextIO) -> int | None:
    """The width of `stream` in characters; None: lines are not broken."""
    said = os.environ.get("COLUMNS", "")
    if said.isdigit() and int(said):
        return max(NARROWEST, int(said))
    try:
        terminal = stream.isatty()
    except ValueError:  # it is closed
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns) if terminal else None


def wrapped(line: str, width: int | None) -> list[str]:
    """A line as one or several, none wider than `width`. Words stay whole, so that a path can be
    copied: a word that is wider than the terminal has a line of its own. A list without spaces is
    broken after commas, and text of characters that take two columns between any two of them."""
    if width is None or cell_len(line) <= width:
        return [line]
    own = len(line) - len(line.lstrip())
    lines, indent = [line[:own]], " " * max(INDENT, own + 2)
    for word in _words(line[own:], width - len(indent)):
        if lines[-1].strip() and cell_len(lines[-1]) + cell_len(word.rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += word
    lines[-1] = lines[-1].rstrip()
    return lines


def _words(text: str, width: int) -> Iterator[str]:
    """Words with the spaces behind them."""
    for word in re.findall(r"\S+\s*", text):
        if cell_len(word) <= width:
            yield word
        elif cell_len(word) > len(word):  # Chinese, Japanese, Korean, emoji
            yield from chop_cells(word, width)
        else:
            yield from re.findall(r"[^,]*,?\s*", word)
