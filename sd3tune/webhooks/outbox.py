"""A queue of events with room for so many and no more. Putting never waits.

Where it is full, the oldest preview goes first, then the oldest report of progress, then the oldest
of the rest.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sd3tune.report.events import Event, PreviewDrawn, StepTaken

MOST_EVENTS, MOST_BYTES = 128, 32 * 2**20
FIRST_TO_GO = (PreviewDrawn, StepTaken)


@dataclass(frozen=True)
class Parcel:
    """An event that waits, and when it happened."""

    event: Event
    at: datetime

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        return len(self.event.png) if isinstance(self.event, PreviewDrawn) else 1024


class Outbox:
    """One thread puts, another takes."""

    def __init__(self, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_events, self._most_bytes = most_events, most_bytes
        self._waiting: deque[Parcel] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.put_count = self.dropped = 0

    def put(self, parcel: Parcel) -> bool:
        """Adds an event; False where one had to go for it, or the queue has ended."""
        with self._changed:
            self.put_count += 1
            before = self.dropped
            if self._ended:
                self.dropped += 1
            else:
                self._waiting.append(parcel)
                while self._full():
                    self._drop_one()
                self._changed.notify()
            return self.dropped == before

    def take(self, together: Callable[[Sequence[Parcel], Parcel], bool]) -> list[Parcel]:
        """The oldest event, and those behind it that go together with what was taken. Waits for
        one. Empty: the queue has ended, and nothing is left."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            taken = [self._waiting.popleft()] if self._waiting else []
            while taken and self._waiting and together(taken, self._waiting[0]):
                taken.append(self._waiting.popleft())
            return taken

    def end(self, drop: tuple[type, ...] = FIRST_TO_GO, newest: int | None = None) -> None:
        """No event comes after this. Events of these kinds that still wait go, and of the rest all
        but so many of the newest, so that what matters is delivered in the seconds that are left:
        how the run ended is the last event."""
        with self._changed:
            self._ended = True
            kept = [p for p in self._waiting if not isinstance(p.event, drop)]
            kept = kept if newest is None else kept[-newest:]
            self.dropped += len(self._waiting) - len(kept)
            self._waiting = deque(kept)
            self._changed.notify_all()

    def _full(self) -> bool:
        sizes = sum(parcel.size for parcel in self._waiting)
        return len(self._waiting) > self._most_events or sizes > self._most_bytes

    def _drop_one(self) -> None:
        for kind in FIRST_TO_GO:
            for parcel in self._waiting:
                if isinstance(parcel.event, kind):
                    self._waiting.remove(parcel)
                    self.dropped += 1
                    return
        self._waiting.popleft()
        self.dropped += 1
