"""A sink behind a bounded queue, with a thread of its own: for libraries and networks that may be
slow, hang or fail. Training waits for none of it.

Where the queue is full, new events are lost and the user is told once. What the sink raises is
raised again by the next `receive`, so that the stream closes this sink. At the end it has a few
seconds; a thread that hangs does not keep the process alive.
"""

import queue
import threading
from collections.abc import Callable

from sd3tune.report.events import Event
from sd3tune.report.messages import warn
from sd3tune.report.progress import waiting
from sd3tune.report.stream import Sink

SIZE = 1000  # events
CLOSE_SECONDS = 20.0


class QueuedSink:
    """Hands events to the sink that `build` makes; both happen in the thread. takes: the kinds of
    events that the sink reads. size: events that may wait."""

    def __init__(
        self,
        name: str,
        build: Callable[[], Sink],
        takes: tuple[type[Event], ...],
        *,
        size: int = SIZE,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self.name, self._build, self._takes = name, build, takes
        self._close_seconds = close_seconds
        self._queue: queue.Queue[Event] = queue.Queue(size)
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self.lost = 0  # events for which there was no room
        self._thread = threading.Thread(target=self._deliver, name=f"sink {name}", daemon=True)
        self._thread.start()

    def receive(self, event: Event) -> None:
        """Puts the event into the queue. Raises what the sink raised for an earlier one."""
        self._raise_failure()
        if not isinstance(event, self._takes):
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.lost += 1
            if self.lost == 1:
                warn(f"{self.name} is too slow: it misses events from step {event.step} on, and "
                     "the run goes on")  # fmt: skip

    def close(self) -> None:
        """Waits a few seconds until everything is delivered. Raises what the sink raised."""
        self._ended.set()
        with waiting(f"finishing {self.name}"):
            self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"it was not done within {self._close_seconds:g} s")
        self._raise_failure()

    def _deliver(self) -> None:
        try:
            sink = self._build()
            while (event := self._next()) is not None:
                sink.receive(event)
            sink.close()
        except Exception as error:  # libraries raise anything; `receive` hands it to the stream
            self._failure = error

    def _next(self) -> Event | None:
        """The next event; None when there will be none."""
        while True:
            ended = self._ended.is_set()
            try:
                return self._queue.get(timeout=0 if ended else 0.1)
            except queue.Empty:
                if ended:
                    return None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
