"""Fills a cache shard by shard. It can be interrupted at any moment: the next run makes the missing
entries. Two runs at a time share the work.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from sd3tune.data.cache import TensorCache
from sd3tune.report.progress import Stage

POLL_SECONDS = 0.2  # while another process writes what is missing here

Entries = dict[str, Mapping[str, Tensor]]
Made = tuple[Entries, dict[str, str]]  # entries, and problems of keys that have none


def fill(
    cache: TensorCache,
    keys: Sequence[str],
    size: int,
    make: Callable[[list[str]], Made],
    bar: Stage,
) -> None:
    """Makes the missing entries, `size` keys in each shard. A shard that another process is writing
    is left to that process and awaited. The shards do not depend on interruptions or on the process
    that wrote them."""
    left = iter(keys)
    chunks = list(iter(lambda: list(islice(left, size)), []))
    while chunks:
        busy = []
        for chunk in chunks:
            with cache.claim(chunk) as draft:
                if draft is not None:
                    draft.write(*make(chunk))
                    bar.advance(len(chunk))
                else:
                    busy.append(chunk)
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
        if chunks:
            time.sleep(POLL_SECONDS)


def free() -> None:
    """Memory of dropped models goes back to the device before the next one comes."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
