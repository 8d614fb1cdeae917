"""The stream of events of a run: each goes to every sink, and a failing sink never hurts the run.

`receive` is called on the thread that emits, nearly always the one that trains: a sink that waits
for a network or a library puts the event into a queue of its own and returns at once
(queued_sink.py). Events come one at a time.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from sd3tune.escaping import sentence
from sd3tune.report.events import Event
from sd3tune.report.messages import warn


class Sink(Protocol):
    """Where events go."""

    name: str  # as the user set it: `wandb`, `webhook`

    def receive(self, event: Event) -> None:
        """Takes one event. Whatever it raises closes this sink and is said once."""

    def close(self) -> None:
        """Writes or sends what is left, within a few seconds."""


class Stream:
    """Hands events to sinks. Without sinks it does nothing: other processes of a run have none."""

    def __init__(
        self, sinks: Sequence[Sink] = (), clean: Callable[[str], str] = lambda words: words
    ) -> None:
        """clean: takes secrets out of what a sink says when it fails."""
        self._sinks, self._clean = list(sinks), clean
        self._one = threading.RLock()  # a warning inside `receive` is an event too

    def emit(self, event: Event) -> None:
        """Hands the event to every sink that still works. Any thread may call it."""
        with self._one:
            for sink in tuple(self._sinks):
                try:
                    sink.receive(event)
                except Exception as error:  # a tracker may raise anything, and the run goes on
                    self._sinks.remove(sink)
                    why = self._why(error)
                    warn(f"{sink.name} failed and gets nothing more; the run goes on: {why}")

    def close(self) -> None:
        """Closes every sink that still works."""
        while self._sinks:
            sink = self._sinks.pop()
            try:
                sink.close()
            except Exception as error:  # as above
                warn(f"{sink.name} failed at its end: {self._why(error)}")

    def _why(self, error: Exception) -> str:
        return self._clean(sentence(error)) or type(error).__name__


@contextmanager
def streaming(
    sinks: Sequence[Sink], clean: Callable[[str], str] = lambda words: words
) -> Iterator[Stream]:
    """A stream that is closed however the block ends."""
    stream = Stream(sinks, clean)
    try:
        yield stream
    finally:
        stream.close()
