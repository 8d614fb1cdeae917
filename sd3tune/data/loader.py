"""Creates batches in threads, ahead of the training loop. Every random choice is a function of
(seed, position, image and its occurrence in the step).

Starting at position n therefore gives exactly the batches of an uninterrupted run from there on,
for any number of threads and processes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.data.discover import Sample
from sd3tune.data.order import Schedule
from sd3tune.data.seeds import seed_of

WORKERS = 3  # threads that create batches
AHEAD = 8  # batches that are ready or being created

Embeds = tuple[Tensor, Tensor]
Posterior = tuple[Tensor, Tensor]
Epoch = Callable[[int], None]
Ahead = Callable[[int, Batch], Batch]


@dataclass(frozen=True)
class Loader:
    """Creates the batches of one process from cached latents and embeddings."""

    schedule: Schedule
    seed: int
    posterior_of: Callable[[Sample], Posterior]  # -> mean and deviation, (16, H/8, W/8) each
    embeds_of: Callable[[Sample, str], Embeds]  # -> (tokens, width), (pooled,); "" is the blank
    dropout_of: Callable[[Sample], float]  # probability that its caption is replaced by the blank
    device: torch.device
    mask_of: Callable[[Sample], Tensor | None] = lambda sample: None  # -> (1, H/8, W/8) uint8
    regularises: Callable[[Sample], bool] = lambda sample: False
    level_offset_of: Callable[[Sample], float] = lambda sample: 0.0
    pin: bool = False
    rank: int = 0
    processes: int = 1
    workers: int = WORKERS
    begin_epoch: Epoch = lambda epoch: None  # called before an epoch's first batch is created
    ahead: Ahead = lambda position, batch: batch  # adds what the batch's step will draw

    @contextmanager
    def batches(self, position: int = 0) -> Iterator[Iterator[Batch]]:
        """An endless iterator starting at batch number `position` of the run."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        try:
            yield self._made(position, pool)
        finally:
            pool.shutdown(cancel_futures=True)

    def batch(self, position: int, chosen: Sequence[Sample]) -> Batch:
        """The batch of these images at a position: draws captions and latents. On the CPU."""
        embeds = [self.embeds_of(s, self._caption(position, s)) for s in chosen]
        masks = [mask for s in chosen if (mask := self.mask_of(s)) is not None]
        batch = Batch(
            ids=tuple(s.id for s in chosen),
            latents=torch.stack([self._latents(position, s) for s in chosen]),
            prompt_embeds=torch.stack([e[0] for e in embeds]),
            pooled=torch.stack([e[1] for e in embeds]),
            mask=torch.stack(masks) if masks else None,
            regularisation=self.regularises(chosen[0]),
            level_offset=self.level_offset_of(chosen[0]),
            occurrences=tuple(s.occurrence for s in chosen),
        )
        batch = self.ahead(position, batch)
        return batch.each(Tensor.pin_memory) if self.pin else batch

    def _latents(self, position: int, s: Sample) -> Tensor:
        """A sample of the VAE's posterior (16, H/8, W/8), a new one each time the image is used."""
        mean, deviation = self.posterior_of(s)
        generator = torch.Generator().manual_seed(seed_of("latent", self.seed, position, *s.draw))
        return torch.randn(mean.shape, generator=generator).mul_(deviation).add_(mean)

    def _caption(self, position: int, s: Sample) -> str:
        dice = seed_of("caption", self.seed, position, *s.draw)
        if (dice & 0xFFFFFFFF) / 2**32 < self.dropout_of(s):
            return ""
        return s.captions[(dice >> 32) % len(s.captions)]

    def _made(self, position: int, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque()
        epoch = -1
        for place, number, chosen in self.schedule.batches_from(
            position, self.rank, self.processes
        ):
            if number != epoch:
                wait(ahead)  # begin_epoch may replace files that pending batches still read
                self.begin_epoch(number)
                epoch = number
            ahead.append(pool.submit(self.batch, place, chosen))
            if len(ahead) >= AHEAD:
                yield self._placed(ahead.popleft().result())

    def _placed(self, batch: Batch) -> Batch:
        """The batch on the device, as float32. It is converted after the transfer, which moves
        fewer bytes."""
        return batch.each(lambda t: _unit(t.to(self.device, non_blocking=self.pin)))


def _unit(t: Tensor) -> Tensor:
    return t.float() / 255 if t.dtype == torch.uint8 else t.float()
