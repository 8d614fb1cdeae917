"""What was asked and has not answered yet, and since when: words for the user who waits."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Now = Callable[[str], None]  # gets the name of what is being waited for now


class Awaited:
    """Filled by the threads that ask child processes, read by the one that shows it."""

    def __init__(self) -> None:
        self._open: dict[
            str, tuple[str, float]
        ] = {}  # question -> its present part, and since when
        self._lock = threading.Lock()

    @contextmanager
    def answer(self, question: str) -> Iterator[Now]:
        """An answer is awaited while the block runs: `with awaited.answer("import torch"):`. Yields
        a function that takes the name of the part that is running now."""

        def now(part: str) -> None:
            with self._lock:
                if self._open[question][0] != part:
                    self._open[question] = part, time.monotonic()

        with self._lock:
            self._open[question] = question, time.monotonic()
        try:
            yield now
        finally:
            with self._lock:
                del self._open[question]

    def words(self, doing: str) -> Callable[[], str]:
        """`doing`, or what is awaited now: "waiting for import torch (12 s)"."""

        def text() -> str:
            now = time.monotonic()
            with self._lock:
                parts = [f"{part} ({now - at:.0f} s)" for part, at in self._open.values()]
            return f"waiting for {', '.join(parts)}" if parts else doing

        return text
