"""Progress on stderr: bars on a terminal, an occasional line in a log file.

Words carry the meaning; nothing here can fail a run, and stdout stays free for data.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from sd3tune.escaping import one_line
from sd3tune.report.messages import LOGGER, say, warn
from sd3tune.report.streams import speaks

__all__ = ["Heartbeat", "Stage", "say", "stage", "warn"]
LINE_EVERY_SECONDS = 10.0


class Heartbeat:
    """Touches the file that SD3TUNE_HEARTBEAT names, at most once a second, as work advances: a
    container's health check looks at its age. A file that cannot be written is ignored."""

    def __init__(self) -> None:
        named = os.environ.get("SD3TUNE_HEARTBEAT")
        self._path = Path(named) if named and speaks() else None
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self._path is not None and now - self._last >= 1:
            self._last = now
            with contextlib.suppress(OSError):
                self._path.touch()

    def end(self) -> None:
        """Removes the file: after the run, its age would look like a run that hangs."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


class Stage:
    """Progress of one piece of work. total None: how much there is, is unknown."""

    def __init__(
        self, bar: Progress | None, task: TaskID | None, name: str, total: int | None
    ) -> None:
        self._bar, self._task, self.name, self.total = bar, task, name, total
        self.done = 0
        self._started = self._said = time.monotonic()
        self._first = 0
        self._heart = Heartbeat()

    def begin(self, done: int) -> None:
        """Work finished in an earlier run: shown as done, left out of the rate."""
        self.done = self._first = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def advance(self, count: int = 1, words: str = "") -> None:
        self.done += count
        self._heart.beat()
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            if now - self._said >= 0.05 or self.done == self.total:  # bars cost more than headers
                self._said = now
                rate = "" if words else self._rate(now)
                self._bar.update(self._task, completed=self.done, words=one_line(words or rate))
        elif now - self._said >= LINE_EVERY_SECONDS or self.done == self.total:
            self._said = now
            of = "" if self.total is None else f"/{self.total}"
            words = words or self._rate(now)
            say(f"{self.name} {self.done}{of}  {words}{self._eta()}")

    def _rate(self, now: float) -> str:
        elapsed = now - self._started
        return f"{(self.done - self._first) / elapsed:.4g}/s" if elapsed > 0 else ""

    def _eta(self) -> str:
        fresh = self.done - self._first
        elapsed = time.monotonic() - self._started
        if not fresh or self.total is None or self.done >= self.total:
            return ""
        return f"  eta {(self.total - self.done) * elapsed / fresh:.0f} s"


@contextmanager
def stage(name: str, total: int | None) -> Iterator[Stage]:
    """`with stage("encode images", 120) as s: … s.advance(4)`"""
    console = Console(stderr=True)
    if not (console.is_terminal and speaks() and LOGGER.isEnabledFor(logging.INFO)):
        yield Stage(None, None, name, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # an id may look like rich's [bold]
        BarColumn(bar_width=16),  # what is left of eighty columns is for the words
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        yield Stage(bar, bar.add_task(one_line(name), total=total, words=""), name, total)
