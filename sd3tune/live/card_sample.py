"""Memory and temperature of the cards of this machine, asked rarely and beside everything else.

One library call in a thread of its own: a driver that hangs keeps no page waiting. Only the library
that each vendor offers for this is asked, without a child process; doctor asks all sources.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from sd3tune.backends.observe import card_sources

EVERY_SECONDS = 5.0
# The first source of each vendor.
BEST: dict[str, str] = {
    source.vendor: name for name, source in reversed(card_sources.SOURCES.items())
}
Observe = Callable[[str, str], dict[str, Any]]  # name of a source, root -> its survey


class CardSample:
    """The newest sample, which may be some seconds old."""

    def __init__(self, observe: Observe = card_sources.observe) -> None:
        self._observe = observe
        self._cards: list[dict[str, Any]] = []
        self._asked = float("-inf")
        self._asking = threading.Event()

    def read(self, vendor: str) -> list[dict[str, Any]]:
        """name, used_bytes, total_bytes and temperature_celsius of each card, None where unknown;
        empty where the vendor has no cards or before the first answer."""
        source = BEST.get(vendor)
        due = time.monotonic() - self._asked >= EVERY_SECONDS
        if source and due and not self._asking.is_set():
            self._asked = time.monotonic()
            self._asking.set()
            threading.Thread(target=self._ask, args=(source,), daemon=True).start()
        return self._cards

    def _ask(self, source: str) -> None:
        try:
            gpus = self._observe(source, "/").get("gpus") or ()
            self._cards = [
                {
                    "name": gpu.get("name"),
                    "used_bytes": gpu.get("used_bytes"),
                    "total_bytes": gpu.get("total_bytes"),
                    "temperature_celsius": gpu.get("temperature_celsius"),
                }
                for gpu in gpus
            ]
        finally:
            self._asking.clear()
