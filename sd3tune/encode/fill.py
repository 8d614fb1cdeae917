"""Fills a cache shard by shard. It can be interrupted at any moment: the next run makes the missing
entries. Two runs at a time share the work.

Entries are completed and written by a second thread while the encoder works on the next shard.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice

import torch
from torch import Tensor

from sd3tune.data.cache import Draft, TensorCache
from sd3tune.report.progress import Stage

POLL_SECONDS = 0.2  # while another process writes what is missing here

Entries = dict[str, Mapping[str, Tensor]]
Made = tuple[Entries, dict[str, str]]  # entries, and problems of keys that have none
Make = Callable[[list[str]], Callable[[], Made]]


def fill(cache: TensorCache, keys: Sequence[str], size: int, make: Make, bar: Stage) -> None:
    """Makes the missing entries, `size` keys in each shard. make: encodes the entries of some keys;
    what it returns completes them, and is called in the thread that writes. A shard that another
    process is writing is left to that process and awaited. The shards do not depend on
    interruptions or on the process that wrote them."""
    left = iter(keys)
    chunks = list(iter(lambda: list(islice(left, size)), []))
    with ThreadPoolExecutor(1, thread_name_prefix="cache-writer") as pool:
        writer = _Writer(pool, bar)
        while chunks:
            busy = [chunk for chunk in chunks if not _made(cache, chunk, make, writer)]
            writer.wait()
            chunks = _left_by_others(cache, busy, bar)
            if chunks:
                time.sleep(POLL_SECONDS)


class _Writer:
    """Writes one shard at a time while the next one is made."""

    def __init__(self, pool: ThreadPoolExecutor, bar: Stage) -> None:
        self._pool, self._bar = pool, bar
        self._writing: tuple[Future[None], int] | None = None

    def write(
        self, claimed: ExitStack, draft: Draft, keys: Sequence[str], finish: Callable[[], Made]
    ) -> None:
        """Waits for the shard before, and begins to write this one; `claimed` is closed after it.
        Raises what the shard before raised."""
        try:
            self.wait()
        except BaseException:
            claimed.close()
            raise
        self._writing = self._pool.submit(_written, claimed, draft, finish), len(keys)

    def wait(self) -> None:
        """Waits until the shard is written. Raises DataError."""
        if self._writing is not None:
            (future, count), self._writing = self._writing, None
            future.result()
            self._bar.advance(count)


def _written(claimed: ExitStack, draft: Draft, finish: Callable[[], Made]) -> None:
    with claimed:
        draft.write(*finish())


def _made(cache: TensorCache, chunk: list[str], make: Make, writer: _Writer) -> bool:
    """Whether this process makes the shard of these keys; otherwise another one does, or did."""
    with ExitStack() as stack:
        draft = stack.enter_context(cache.claim(chunk))
        if draft is None:
            return False
        finish = make(chunk)
        writer.write(stack.pop_all(), draft, chunk, finish)
    return True


def _left_by_others(cache: TensorCache, busy: list[list[str]], bar: Stage) -> list[list[str]]:
    """The shards that other processes claimed and have not written yet."""
    if busy:
        cache.refresh()
    chunks = []
    for chunk in busy:
        if not all(cache.has(key) for key in chunk):
            cache.look_again(chunk)
        if all(cache.has(key) for key in chunk):
            bar.advance(len(chunk))
        else:
            chunks.append(chunk)
    return chunks


def free() -> None:
    """Memory of dropped models goes back to the device before the next one comes."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
