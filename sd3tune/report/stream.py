"""The stream of events of a run: each goes to every sink, and a failing sink never hurts the run.

`receive` is called on the thread that emits, nearly always the one that trains: a sink that waits
for a network or a library puts the event into a queue of its own and returns at once
(queued_sink.py). Events come one at a time.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

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

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._one = threading.RLock()  # a warning inside `receive` is an event too

    def emit(self, event: Event) -> None:
        """Hands the event to every sink that still works. Any thread may call it."""
        with self._one:
            for sink in tuple(self._sinks):
                try:
                    sink.receive(event)
                except Exception as error:  # a tracker may raise anything, and the run goes on
                    self._sinks.remove(sink)
                    warn(f"{sink.name} failed and gets nothing more; the run goes on: {error}")

    def close(self) -> None:
        """Closes every sink that still works."""
        while self._sinks:
            sink = self._sinks.pop()
            try:
                sink.close()
            except Exception as error:  # as above
                warn(f"{sink.name} failed at its end: {error}")


@contextmanager
def streaming(sinks: Sequence[Sink]) -> Iterator[Stream]:
    """A stream that is closed however the block ends."""
    stream = Stream(sinks)
    try:
        yield stream
    finally:
        stream.close()
