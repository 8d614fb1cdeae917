"""How things are printed: one fact a line, names in one column, one JSON document.

Words carry the meaning; no colour is used. Everything is escaped, so that no name of a file or a
caption can move the cursor (sd3tune/escaping.py). The JSON documents are the contract for programs:
docs/reference/json.md.
"""

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from rich.cells import cell_len

from sd3tune import __version__
from sd3tune.escaping import echo, one_line, sentence
from sd3tune.report.messages import LOGGER
from sd3tune.report.width import INDENT, columns, wrapped

Line = str | tuple[str, str]  # a pair: the second part goes below the first where there is no room
WIDE = 100  # columns from which the second part of a pair stands beside the first


class Status(Protocol):
    """A line of doctor or of `image check`."""

    @property
    def status(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def fact(self) -> str: ...
    @property
    def fix(self) -> str: ...


def show(lines: Iterable[Line], *, err: bool = False) -> None:
    """Prints to stdout, or stderr, as wide as the terminal is. Raises ReaderGone."""
    width = columns(sys.stderr if err else sys.stdout)
    echo("\n".join(part for line in lines for part in _fitted(line, width)), err=err)


def tell(lines: Iterable[Line]) -> None:
    """Prints to stderr what the user may want to follow; nothing with -q."""
    if LOGGER.isEnabledFor(logging.INFO):
        show(lines, err=True)


def show_error(message: object, hint: str) -> None:
    """What went wrong and what to do, a line each, on stderr."""
    show([f"error: {sentence(message)}", f"hint: {sentence(hint)}"], err=True)


def document(command: str, content: Mapping[str, Any]) -> str:
    """One JSON document, which says what wrote it."""
    head = {"schema": 1, "tool": f"sd3tune {command}", "version": __version__}
    return json.dumps(head | dict(content), indent=1)


def status_lines(found: Status, source: str = "") -> list[Line]:
    """`ok`, `warn`, `FAIL` or `skip`, the measured fact, and below it what to do."""
    shown: list[Line] = [f"{found.status:<4}  {found.name}: {found.fact}{source}"]
    return [*shown, f"      fix: {found.fix}"] if found.fix else shown


def notes(sentences: Sequence[str]) -> list[str]:
    """What the user may want to know and need not act on."""
    return [f"note: {sentence}" for sentence in sentences]


def counted(counts: Mapping[str, int]) -> str:
    """`16` where all agree, `8 (12), 16 (4)` where not."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _fitted(line: Line, width: int | None) -> list[str]:
    if isinstance(line, str):
        return wrapped(one_line(line), width)
    head, tail = map(one_line, line)
    if width is None or (width >= WIDE and cell_len(f"{head} {tail}") <= width):
        return [f"{head} {tail}"]
    below = wrapped(" " * INDENT + tail, width)
    return [*wrapped(head.rstrip(), width), *below] if head.strip() else below
