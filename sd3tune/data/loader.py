"""Batches for the loop, made ahead of it in a thread; every draw is a function of (seed, position).

Starting at position n gives exactly the batches that an undisturbed run would see from there on.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.discover import Sample
from sd3tune.data.epoch import batches_per_epoch, order

AHEAD = 2  # batches kept ready

Embeds = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Loader:
    """What batches are made of."""

    samples: Sequence[Sample]
    batch_size: int
    seed: int
    dropout: float  # probability that a caption is replaced by the blank one
    latent_of: Callable[[Sample], Tensor]  # -> (16, H/8, W/8)
    embeds_of: Callable[[str], Embeds]  # -> (tokens, width), (pooled width,); "" is the blank
    device: torch.device
    pin: bool = False

    @contextmanager
    def batches(self, position: int = 0) -> Iterator[Iterator[Batch]]:
        """An endless iterator starting at batch number `position` of the run."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD)
        stop = threading.Event()
        worker = threading.Thread(target=self._work, args=(position, ready, stop), daemon=True)
        worker.start()
        try:
            yield self._taken(ready)
        finally:
            stop.set()
            worker.join()

    def batch(self, position: int, chosen: Sequence[Sample]) -> Batch:
        """Those images with their captions drawn, on the CPU."""
        embeds = [self.embeds_of(self._caption(position, s)) for s in chosen]
        batch = Batch(
            ids=tuple(s.id for s in chosen),
            latents=torch.stack([self.latent_of(s) for s in chosen]),
            prompt_embeds=torch.stack([e[0] for e in embeds]),
            pooled=torch.stack([e[1] for e in embeds]),
        )
        return _each(batch, Tensor.pin_memory) if self.pin else batch

    def _caption(self, position: int, s: Sample) -> str:
        words = f"caption {self.seed} {position} {s.id}".encode()
        dice = int.from_bytes(blake2b(words, digest_size=8).digest(), "big")
        if (dice & 0xFFFFFFFF) / 2**32 < self.dropout:
            return ""
        return s.captions[(dice >> 32) % len(s.captions)]

    def _work(
        self, position: int, ready: "queue.Queue[Batch | BaseException]", stop: threading.Event
    ) -> None:
        try:
            per_epoch = batches_per_epoch(self.samples, self.batch_size)
            epoch, start = divmod(position, per_epoch)
            for number in count(epoch):
                plan = order(self.samples, self.batch_size, self.seed, number)
                for place, chosen in enumerate(plan[start:], start):
                    item = self.batch(number * per_epoch + place, chosen)
                    if not _offer(ready, item, stop):
                        return
                start = 0
        except BaseException as e:  # handed over: the loop raises it where a human sees it
            _offer(ready, e, stop)

    def _taken(self, ready: "queue.Queue[Batch | BaseException]") -> Iterator[Batch]:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield _each(item, lambda t: t.to(self.device, non_blocking=self.pin))


def _offer(
    ready: "queue.Queue[Batch | BaseException]", item: Batch | BaseException, stop: threading.Event
) -> bool:
    """False when the loop has gone: a full queue must not keep the thread for ever."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return Batch(
        batch.ids, change(batch.latents), change(batch.prompt_embeds), change(batch.pooled)
    )
