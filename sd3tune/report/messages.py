"""Messages while a command runs: sentences on stderr, in levels, for the user who watches it.

    logging.getLogger(__name__).debug("…")    with -v: which file was read, what was kept on disk
    say("…")                                  what happens, unless -q
    warn("…")                                 what the user should look at, always

Results are not messages: they go to stdout (sd3tune/cli/words.py). Of several processes of one run
the first one speaks. Every message is one line, whatever names it holds, and shows no credentials.
A line does not tear a progress bar: while one is drawn, rich prints above it what is written to
sys.stderr.
"""

import logging
import sys
import time
from collections.abc import Iterator
from typing import Literal

from sd3tune.escaping import one_line, shortened
from sd3tune.report.streams import speaks
from sd3tune.report.width import columns, wrapped
from sd3tune.urls import redacted

Verbosity = Literal["quiet", "normal", "verbose"]
LEVELS: dict[Verbosity, int] = {
    "quiet": logging.WARNING,
    "normal": logging.INFO,
    "verbose": logging.DEBUG,
}
FLAGS: dict[Verbosity, tuple[str, ...]] = {"quiet": ("-q",), "normal": (), "verbose": ("-v",)}
PREFIX = {logging.DEBUG: "debug: ", logging.WARNING: "warning: ", logging.ERROR: "error: "}


class StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at the moment. What a stream refuses raises OSError, as
    `print` does; streams.outlive() is what makes a run survive it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()  # when the newest message was written

    def emit(self, record: logging.LogRecord) -> None:
        self.last = time.monotonic()
        if speaks():
            print("\n".join(_lines(record)), file=sys.stderr, flush=True)


def _lines(record: logging.LogRecord) -> Iterator[str]:
    width = columns(sys.stderr)
    head = PREFIX.get(record.levelno, "") + record.getMessage()
    for text in (head, *getattr(record, "details", ())):
        yield from wrapped(one_line(shortened(redacted(text))), width)


def _logger() -> logging.Logger:
    logger = logging.getLogger("sd3tune")
    logger.addHandler(HANDLER)
    logger.propagate = False  # a library that sets up the root logger would print everything twice
    logger.setLevel(LEVELS["normal"])
    return logger


HANDLER = StderrHandler()
LOGGER = _logger()  # the parent of logging.getLogger(__name__) in every module


def set_verbosity(verbosity: Verbosity) -> None:
    """Sets the verbosity of this process."""
    LOGGER.setLevel(LEVELS[verbosity])


def verbosity() -> Verbosity:
    """The present verbosity."""
    return next(name for name, level in LEVELS.items() if level == LOGGER.level)


def silent_seconds() -> float:
    """Seconds since the newest message."""
    return time.monotonic() - HANDLER.last


def say(*sentences: str) -> None:
    """What happens, a line each."""
    for sentence in sentences:
        LOGGER.info(sentence)


def warn(sentence: str, *details: str) -> None:
    """What the user should look at; details: lines below it."""
    LOGGER.warning(sentence, extra={"details": details})


def error(sentence: str, hint: str) -> None:
    """What ended a run where no exception can say it; the hint says what to do."""
    LOGGER.error(sentence, extra={"details": (f"hint: {hint}",)})
