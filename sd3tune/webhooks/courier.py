"""The thread that delivers the events of one webhook: it waits, encodes, sends and tries again."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)
from tenacity.nap import sleep_using_event

from sd3tune.data.request_urls import Busy, Failed
from sd3tune.report.events import Event
from sd3tune.report.messages import say, warn
from sd3tune.webhooks.outbox import Outbox, Parcel
from sd3tune.webhooks.posting import ReceiverRefused

TRIES = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0  # between tries
Wait = Callable[[RetryCallState], float]
BACKOFF = wait_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) + wait_random(0, 0.5)


class Receiver(Protocol):
    """The other end of a webhook, and the form in which it takes events."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, as the user may read them."""

    def wants(self, event: Event) -> bool:
        """Whether this event is sent at all."""

    def together(self, taken: Sequence[Parcel], other: Parcel) -> bool:
        """Whether one more event fits into a message."""

    def deliver(self, parcels: Sequence[Parcel]) -> None:
        """Sends one message. Raises Busy, ReceiverRefused or Failed."""


class Courier(threading.Thread):
    """Delivers to one receiver. `put` is for the thread that trains; the rest runs in its own."""

    def __init__(
        self, receiver: Receiver, outbox: Outbox | None = None, wait: Wait | None = None
    ) -> None:
        super().__init__(name=f"webhook {receiver.origin}", daemon=True)
        self._receiver, self._outbox = receiver, outbox or Outbox()
        self._wait = wait or wait_seconds
        self._closing, self._said = threading.Event(), False
        self._delivered, self._seconds = 0, 0.0  # seconds: of the newest delivery

    def put(self, event: Event) -> None:
        """Queues an event, and returns at once."""
        wanted = self._receiver.wants(event)
        if wanted and not self._outbox.put(Parcel(event, datetime.now(UTC))):
            self._tell("it takes events too slowly; previews are left out first")

    def run(self) -> None:
        """Until `finish`, and then until nothing is left."""
        while parcels := self._outbox.take(self._receiver.together):
            try:
                for attempt in self._tries():
                    with attempt:
                        begun = time.monotonic()
                        self._receiver.deliver(parcels)
                        self._seconds = time.monotonic() - begun
            except ReceiverRefused as e:
                self._tell(f"{e}; nothing more is sent there")
                self._outbox.end(drop=(object,))
            except Failed as e:
                self._tell(f"{e}; what cannot be delivered is left out")
            else:
                self._delivered += len(parcels)

    def finish(self, seconds: float) -> None:
        """What waits is sent now, as much as so many seconds allow, without waiting between tries;
        nothing comes after it."""
        self._closing.set()
        fitting = int(seconds / self._seconds) if self._seconds else None
        self._outbox.end(newest=None if fitting is None else max(1, fitting))

    def summarise(self) -> None:
        """Says how much was not delivered."""
        count = self._outbox.put_count
        if lost := count - self._delivered:
            say(f"webhook {self._receiver.origin}: {lost} of {count} events were not delivered")

    def _tries(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(Busy),
            stop=stop_after_attempt(TRIES) | stop_when_event_set(self._closing),
            wait=self._wait,
            sleep=sleep_using_event(self._closing),
            before_sleep=lambda state: self._tell(f"{_error(state)}; it is tried again"),
            reraise=True,
        )

    def _tell(self, why: str) -> None:
        """Only the first failure: a receiver that is down would otherwise fill the log."""
        if not self._said:
            self._said = True
            warn(f"webhook {self._receiver.origin}: {why}. The run goes on")


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def wait_seconds(state: RetryCallState) -> float:
    """Doubles with each try; at least what the receiver asks for."""
    error = _error(state)
    asked = error.wait_seconds if isinstance(error, Busy) else 0.0
    return min(max(BACKOFF(state), asked), LONGEST_WAIT_SECONDS)


def closed(couriers: Sequence[Courier], seconds: float, clock: Callable[[], float]) -> None:
    """Ends all of them together, within so many seconds."""
    deadline = clock() + seconds
    for courier in couriers:
        courier.finish(seconds)
    for courier in couriers:
        courier.join(max(0.0, deadline - clock()))
        courier.summarise()
