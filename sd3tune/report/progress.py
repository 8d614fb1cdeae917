"""Progress on stderr, so that no command is silent for more than three seconds.

`stage` counts work that can be counted, `waiting` names work that cannot. On a terminal both draw a
line that moves. A log file or a pipe gets a line after two seconds of silence and after each three
seconds more; work of more than a minute gets one every ten seconds where it advances, else every
twelve. Words carry the meaning; nothing here can fail a run, and stdout stays free for data.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.escaping import one_line
from sd3tune.report.messages import LOGGER, say, silent_seconds, warn
from sd3tune.report.streams import speaks

if TYPE_CHECKING:  # rich is imported where a terminal is drawn on
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Heartbeat", "Stage", "say", "stage", "waiting", "warn"]
SILENCE = "SD3TUNE_LOG_SECONDS"  # of silence in a log, before a line names the work
SILENCE_SECONDS = 2.0  # unless the variable says otherwise
# Times that long: the silence before a further line, the same in work that lasts long, and what
# counts as long.
NEXT, MOST, LONG = 1.3, 6, 30
LINE_EVERY_SECONDS = 10.0
# Variables by which rich takes a stream for a terminal, or not.
TERMINAL_VARIABLES = ("TTY_COMPATIBLE", "FORCE_COLOR")
# Where a terminal shows the stages that are open: what begins inside a stage is drawn below it.
CONSOLE: "ContextVar[Console | None]" = ContextVar("CONSOLE", default=None)


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
        self, bar: "Progress | None", task: "TaskID | None", name: str, total: int | None
    ) -> None:
        self._bar, self._task, self.name, self.total = bar, task, name, total
        self.done = 0
        self.started = self._said = time.monotonic()
        self._first = 0
        self._words: Callable[[], str] = str  # that is ""
        self._counted = total is not None  # a log gets a last line, however short the stage was
        self._heart = Heartbeat()

    def begin(self, done: int) -> None:
        """Work finished in an earlier run: shown as done, left out of the rate."""
        self.done = self._first = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def expect(self, total: int) -> None:
        """The amount of work, known only after the stage began."""
        self.total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)

    def advance(self, count: int = 1, words: str | Callable[[], str] = "") -> None:
        """Counts finished work. words: what is shown in place of the rate; a function is called
        when it is shown."""
        self.done += count
        self._words = words if callable(words) else lambda: words
        self._heart.beat()
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            if now - self._said >= 0.05 or self.done == self.total:  # bars cost more than headers
                self._said = now
                shown = one_line(self._words() or self._rate(now))
                self._bar.update(self._task, completed=self.done, words=shown)
        elif now - self._said >= LINE_EVERY_SECONDS or self._ends(now):
            self._said = now
            say(f"{self.state()}{self._eta()}")

    def _ends(self, now: float) -> bool:
        shown = self._counted or now - self.started >= silence_seconds()
        return self.done == self.total and shown

    def end(self) -> None:
        """Shows the final count where nobody knew it before."""
        if self._bar is not None and self._task is not None and self.total is None:
            self._bar.update(self._task, completed=self.done, total=max(self.done, 1))

    def state(self) -> str:
        """The name, how much is done, and the newest words or the rate."""
        of = "" if self.total is None else f"/{self.total}"
        words = self._words() or (self._rate(time.monotonic()) if self.done > self._first else "")
        return f"{self.name} {self.done}{of}  {words}".rstrip()

    def _rate(self, now: float) -> str:
        elapsed = now - self.started
        return f"{(self.done - self._first) / elapsed:.4g}/s" if elapsed > 0 else ""

    def _eta(self) -> str:
        fresh = self.done - self._first
        elapsed = time.monotonic() - self.started
        if not fresh or self.total is None or self.done >= self.total:
            return ""
        return f"  eta {(self.total - self.done) * elapsed / fresh:.0f} s"


@contextmanager
def stage(name: str, total: int | None) -> Iterator[Stage]:
    """`with stage("encode images", 120) as s: … s.advance(4)`"""
    console = _terminal()
    if console is None:
        counted = Stage(None, None, name, total)
        with _lines(counted.state):
            yield counted
        return
    from sd3tune.report.drawn_progress import counted_line

    with _shown(counted_line(console), console) as bar:
        task = bar.add_task(one_line(name), total=total, words="")
        counted = Stage(bar, task, name, total)
        yield counted
        counted.end()


@contextmanager
def waiting(name: str | Callable[[], str], *, drawn: bool = True) -> Iterator[None]:
    """Shows what the user waits for while the block runs: `with waiting("planning"):`. A terminal
    shows the seconds too, and nothing is left there at the end. name: may change meanwhile, when it
    is a function. drawn False: the terminal is left to a library that draws on it."""
    text = name if callable(name) else lambda: name
    console = _terminal()
    if console is not None and not drawn:
        yield
        return
    if console is None:
        with _lines(text):
            yield
        return
    from sd3tune.report.drawn_progress import waiting_line

    with _shown(waiting_line(text, console), console) as bar:
        bar.add_task("", total=None)
        yield


def _terminal() -> "Console | None":
    """The terminal on stderr; None: it is none, or this process writes nothing there."""
    if not (speaks() and LOGGER.isEnabledFor(logging.INFO)):
        return None
    console = CONSOLE.get()
    if console is None and _may_be_terminal():
        from rich.console import Console

        console = Console(stderr=True)
    return console if console is not None and console.is_terminal else None


def _may_be_terminal() -> bool:
    """False for what rich never takes for a terminal: its import takes longer than many commands do
    their work."""
    if any(name in os.environ for name in TERMINAL_VARIABLES):
        return True
    try:
        return sys.stderr.isatty()
    except ValueError:  # closed
        return False


@contextmanager
def _shown(bar: "Progress", console: "Console") -> "Iterator[Progress]":
    token = CONSOLE.set(console)
    try:
        with bar:
            yield bar
    finally:
        CONSOLE.reset(token)


def silence_seconds() -> float:
    """SD3TUNE_LOG_SECONDS, where it is a number above 0; otherwise 2."""
    try:
        wanted = float(os.environ.get(SILENCE, ""))
    except ValueError:
        return SILENCE_SECONDS
    return wanted if 0 < wanted < 1e6 else SILENCE_SECONDS


class SilenceBreaker(threading.Thread):
    """Writes a line into a log that has been silent for too long. text: what is done, as it
    stands."""

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.held = False  # while work inside this work has a breaker of its own
        self._text, self._ended = text, threading.Event()
        self._least = silence_seconds()

    def run(self) -> None:
        """Until `end` is called."""
        least = self._least
        started, wait = time.monotonic(), least
        while not self._ended.wait(least / 10):
            lasted = time.monotonic() - started
            # The silence counts, not the age of this work: short works one after the other are
            # silent together. What has just begun is over before anybody has read its name.
            if not self.held and lasted >= least / 8 and silent_seconds() >= wait:
                wait = least * (NEXT if lasted < LONG * least else MOST)
                say(f"{self._text()}  ({lasted:.0f} s)")

    def end(self) -> None:
        """Returns when no line can come any more."""
        self._ended.set()
        self.join()


BREAKER: ContextVar[SilenceBreaker | None] = ContextVar("BREAKER", default=None)


@contextmanager
def _lines(text: Callable[[], str]) -> Iterator[None]:
    """While the block runs, a log is not silent for long."""
    if not (speaks() and LOGGER.isEnabledFor(logging.INFO)):
        yield
        return
    outer, breaker = BREAKER.get(), SilenceBreaker(text)
    token = BREAKER.set(breaker)
    if outer is not None:
        outer.held = True
    breaker.start()
    try:
        yield
    finally:
        breaker.end()
        BREAKER.reset(token)
        if outer is not None:
            outer.held = False
