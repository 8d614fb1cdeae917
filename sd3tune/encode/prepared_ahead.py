"""Prepares the inputs of an encoder in threads, a bounded number of them ahead of it.

Which inputs are wanted next follows from one list. Another process may take some of them; what was
prepared for these is dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class PreparedAhead(Generic[T]):
    """Results of `prepare` for the keys of one list, which are asked for in its order."""

    def __init__(
        self,
        keys: Sequence[str],
        prepare: Callable[[str], T],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> None:
        """ahead: how many results may wait or be in work, at least 1."""
        self._keys, self._prepare, self._pool, self._ahead = keys, prepare, pool, ahead
        self._position = {key: i for i, key in enumerate(keys)}
        self._begun: dict[str, Future[T]] = {}

    def each(self, keys: Sequence[str]) -> Iterator[tuple[str, T]]:
        """(key, result) for these keys of the list, in this order. Raises what `prepare` raised."""
        wanted = set(keys)
        for key in keys:
            self._begin_from(self._position[key], wanted)
            # A key asked for again, after a pause for another process, is prepared again.
            future = self._begun.pop(key, None) or self._pool.submit(self._prepare, key)
            yield key, future.result()

    def _begin_from(self, first: int, wanted: set[str]) -> None:
        """Begins what comes at this position and after it, and drops what came before."""
        following = self._keys[first : first + self._ahead]
        for key in self._begun.keys() - wanted - set(following):
            self._begun.pop(key).cancel()
        for key in following:
            if len(self._begun) < self._ahead and key not in self._begun:
                self._begun[key] = self._pool.submit(self._prepare, key)
