"""How wide a line may be, and lines that are broken at that width.

A terminal gets lines as wide as it is; a file or a pipe gets whole lines, so that `grep` finds a
fact on one line. COLUMNS sets the width of both.
"""

import os
import shutil
import textwrap
from typing import TextIO

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
    """A line as one or several, none wider than `width` unless one word is; words stay whole, so
    that a path can be copied."""
    if width is None or len(line) <= width:
        return [line]
    own = len(line) - len(line.lstrip())
    return textwrap.wrap(
        line[own:],
        width,
        initial_indent=line[:own],
        subsequent_indent=" " * max(INDENT, own + 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
