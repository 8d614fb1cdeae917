"""The order of training: a pure function of (datasets, seed, epoch). Only where an optimizer step
would have an image twice, it also depends on the number of batches per step (data/twins.py).

A batch holds images of one dataset and one bucket. Within a dataset, its buckets' batches are
shuffled together. A bucket that does not divide into batches is completed with its own images, so
no image is dropped and a thin bucket cannot stop a run. The dataset of the next batch is drawn by
weight among the datasets that still have batches; an epoch ends when none has.

A position is the number of a batch since the beginning of the run; a run can start at any position.
Process r of n takes the positions p with p mod n = r, so n processes together use the batches that
one process would use.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING

from sd3tune.data import twins
from sd3tune.data.discover import Sample, in_epoch
from sd3tune.data.seeds import seed_of
from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.config import Config
    from sd3tune.config.datasets.image_dataset import ImageDataset

Batches = list[tuple[Sample, ...]]
LONG_EPOCH_STEPS = 4  # an epoch of as many steps has room to move images without touching its end


@dataclass(frozen=True)
class Share:
    """One dataset in a run: its images, and when they are used."""

    name: str
    samples: Sequence[Sample]
    batch_size: int
    probability: float = 1.0
    epochs: tuple[int, int | None] = (1, None)  # first and last epoch that use it, counted from 1
    # Steps done before the dataset's first use; the last step that uses it.
    steps: tuple[int, int | None] = (0, None)
    # (sample, epoch) -> the sample with that epoch's geometry
    redraw: Callable[[Sample, int], Sample] | None = None
    buckets_vary: bool = False  # redraw may change the bucket, not only the crop

    def in_epoch(self, epoch: int) -> Sequence[Sample]:
        if self.redraw is None or epoch == 0:
            return self.samples
        return [self.redraw(s, epoch) for s in self.samples]

    def active(self, epoch: int, step: int | None) -> bool:
        """Whether the dataset is used. epoch: counted from 0; step: steps done, or None for any."""
        first, last = self.epochs
        if epoch + 1 < first or (last is not None and epoch + 1 > last):
            return False
        before, end = self.steps
        return step is None or (step >= before and (end is None or step < end))

    @property
    def windowed(self) -> bool:
        return self.steps != (0, None)

    def count(self, epoch: int) -> int:
        """Number of batches of an epoch."""
        if not self.buckets_vary:
            return self._count
        return _count(_buckets(self.in_epoch(epoch)), self.batch_size)

    def batches(self, seed: int, epoch: int) -> Batches:
        """The batches of an epoch, shuffled; every image occurs at least `repeats + 1` times."""
        dice = Random(seed_of("order", seed, epoch, self.name))
        buckets = self._sorted if self.redraw is None else _buckets(self.in_epoch(epoch))
        found: Batches = []
        for images in buckets:
            chosen = [s for s in images for _ in range(s.repeats + 1)]
            dice.shuffle(chosen)
            chosen += [chosen[i % len(chosen)] for i in range(-len(chosen) % self.batch_size)]
            size = self.batch_size
            found += [tuple(chosen[i : i + size]) for i in range(0, len(chosen), size)]
        dice.shuffle(found)
        return found

    @cached_property
    def _sorted(self) -> list[list[Sample]]:
        return _buckets(self.samples)

    @cached_property
    def _count(self) -> int:
        return _count(self._sorted, self.batch_size)


@dataclass(frozen=True)
class Schedule:
    """All batches of a run, in their order."""

    shares: Sequence[Share]
    seed: int
    batches_per_step: int = 1
    by_size: bool = True  # weights are probability x images, not probability alone

    def epoch(self, number: int, start: int = 0) -> Batches:
        """The batches of epoch `number` (from 0), which begins at position `start`. Where it begins
        within an optimizer step, it depends on the epoch before, which has the step's beginning."""
        chain = [(number, start)]
        while chain[-1][1] % self.batches_per_step:
            chain.append(self.begin(chain[-1][1] - 1))
            if self._is_long(self.length(*chain[-1])):
                break
        batches = earlier = self._alone(*chain.pop())
        for at in reversed(chain):
            batches = self._continued(self._alone(*at), at[1], earlier)
            earlier = (earlier + batches)[-self.batches_per_step :]
        return batches

    def _continued(self, batches: Batches, start: int, earlier: Batches) -> Batches:
        """The batches of an epoch without the images that the first optimizer step has already. Of
        a long epoch, the end stays as it is, so that the next one need not know how it began."""
        before = earlier[-(start % self.batches_per_step) :]
        left_over = (start + len(batches)) % self.batches_per_step
        end = len(batches) - left_over if self._is_long(len(batches)) else len(batches)
        head = twins.apart(batches[:end], self._steps(start, batches[:end]), before)
        return head + batches[end:]

    def _is_long(self, length: int) -> bool:
        return length >= LONG_EPOCH_STEPS * self.batches_per_step

    def _alone(self, number: int, start: int) -> Batches:
        """The batches of an epoch without regard to the epoch before."""
        left = {s.name: s.batches(self.seed, number)[::-1] for s in self._in(number)}
        batches = [left[name].pop() for name in self._draw(number, start)]
        return twins.apart(batches, self._steps(start, batches))

    def _steps(self, start: int, batches: Batches) -> list[int]:
        return [position // self.batches_per_step
                for position in range(start, start + len(batches))]  # fmt: skip

    def length(self, number: int, start: int = 0) -> int:
        """Number of batches of an epoch, computed without creating them."""
        if not any(s.windowed for s in self.shares):
            return sum(s.count(number) for s in self._in(number))
        return sum(1 for _ in self._draw(number, start))

    def start(self, number: int) -> int:
        """The position at which an epoch begins."""
        at, start = self._filled(0, 0)
        while at < number:
            at, start = self._filled(at + 1, start + self.length(at, start))
        return start

    def begin(self, position: int) -> tuple[int, int]:
        """The epoch that holds a position, and the position at which it begins."""
        known = self._begun
        if not known:
            known.append(self._filled(0, 0))
        while (end := known[-1][1] + self.length(*known[-1])) <= position:
            known.append(self._filled(known[-1][0] + 1, end))
        return known[bisect_right(known, position, key=itemgetter(1)) - 1]

    @cached_property
    def _begun(self) -> list[tuple[int, int]]:
        """(epoch, position) of the epochs that `begin` has reached."""
        return []

    def batches_from(
        self, position: int = 0, rank: int = 0, processes: int = 1
    ) -> Iterator[tuple[int, int, tuple[Sample, ...]]]:
        """(position, epoch, images) from `position` on, without end; every `processes`-th, from
        `rank`. An optimizer step begins at `position`: the images know their occurrence in their
        step, all processes together. Raises DataError when nothing is active any more."""
        number, start = self.begin(position)
        in_step: Counter[int] = Counter()
        while True:
            batches = self.epoch(number, start)
            for place in range(max(start, position), start + len(batches)):
                if (place - position) % self.batches_per_step == 0:
                    in_step.clear()
                chosen = twins.numbered(batches[place - start], in_step)
                if place % processes == rank:
                    yield place, number, chosen
            number, start = self._filled(number + 1, start + len(batches))

    def steps_of(self, epochs: int) -> int:
        """Number of optimizer steps in `epochs` epochs; each epoch is rounded up."""
        steps, start = 0, 0
        for number in range(epochs):
            length = self.length(number, start)
            steps, start = steps + -(-length // self.batches_per_step), start + length
        return steps

    def _filled(self, number: int, start: int) -> tuple[int, int]:
        """The first epoch from `number` on that has batches."""
        while self.length(number, start) == 0:
            if not self._later(number, start):
                raise DataError(
                    f"no dataset is active in epoch {number + 1}, after step "
                    f"{start // self.batches_per_step}",
                    hint="move start_epoch, end_epoch, start_step or end_step of a dataset, or "
                    "train for less",
                )
            number += 1
        return number, start

    def _in(self, number: int) -> list[Share]:
        return [s for s in self.shares if s.probability > 0 and s.active(number, None)]

    def _later(self, number: int, start: int) -> bool:
        """Whether an epoch after `number` can have batches. Empty epochs have no steps, so a window
        of steps cannot open in them; only a window of epochs can."""
        step = start // self.batches_per_step
        return any(
            s.probability > 0 and s.epochs[0] > number + 1 and s.active(s.epochs[0] - 1, step)
            for s in self.shares
        )

    def _draw(self, number: int, start: int) -> Iterator[str]:
        """The dataset of each batch of an epoch."""
        shares = self._in(number)
        left = {s.name: s.count(number) for s in shares}
        weight = {s.name: s.probability * (len(s.samples) if self.by_size else 1) for s in shares}
        dice = Random(seed_of("datasets", self.seed, number))
        place = start
        while True:
            step = place // self.batches_per_step
            names = [s.name for s in shares if left[s.name] and s.active(number, step)]
            if not names:
                return
            name = names[0]
            if len(names) > 1:
                name = dice.choices(names, [weight[n] for n in names])[0]
            left[name] -= 1
            place += 1
            yield name


def schedule(
    samples: Sequence[Sample],
    datasets: Sequence["ImageDataset"],
    config: "Config",
    batch_size: int,
    longest: int | None = None,
    processes: int = 1,
) -> Schedule:
    """What the settings ask for; samples of an unlisted dataset are simply all drawn. longest: side
    in pixels where the model ends."""
    by_dataset: Mapping[str, list[Sample]] = defaultdict(list)
    for s in samples:
        by_dataset[s.dataset].append(s)
    settings = {d.id: d for d in datasets}
    shares = [
        _share(settings[name], some, batch_size, longest) if name in settings else Share(
            name, some, batch_size)
        for name, some in sorted(by_dataset.items())
    ]  # fmt: skip
    return Schedule(
        shares,
        config.seed,
        config.gradient_accumulation_steps * processes,
        config.data_backend_sampling == "auto-weighting",
    )


def _share(
    d: "ImageDataset", samples: Sequence[Sample], batch_size: int, longest: int | None
) -> Share:
    redraw = (lambda s, e: in_epoch(s, d, e, longest)) if d.vae_cache_clear_each_epoch else None
    return Share(
        name=d.id,
        samples=samples,
        batch_size=d.train_batch_size or batch_size,
        probability=d.probability,
        epochs=(d.start_epoch, d.end_epoch),
        steps=(d.start_step, d.end_step),
        redraw=redraw,
        buckets_vary=d.vae_cache_clear_each_epoch and d.crop and d.crop_aspect == "random",
    )


def _buckets(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples grouped by bucket; the result does not depend on the order of `samples`."""
    found: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for s in sorted(samples, key=lambda s: s.name):
        found[s.geometry.bucket].append(s)
    return [images for _, images in sorted(found.items())]


def _count(buckets: Sequence[Sequence[Sample]], batch_size: int) -> int:
    counts = (sum(s.repeats + 1 for s in images) for images in buckets)
    return sum(-(-count // batch_size) for count in counts)
