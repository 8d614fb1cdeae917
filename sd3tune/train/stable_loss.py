"""The evaluation loss during training: fixed images, noise and levels, so that a curve shows the
model and not the dice.

Images are alone in their batches, with their first caption, the posterior's mean and their mask;
nothing is dropped. Of several processes each measures its part, and the sum is taken in one order:
the figure is the same for any number of processes and after any resume. It touches no generator of
random numbers and no state of training.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from sd3tune import out_of_memory
from sd3tune.adapters.trained import Trained
from sd3tune.backends.kernels.sdpa import kernel
from sd3tune.data.batch import Batch
from sd3tune.data.discover import Sample
from sd3tune.data.order import Schedule
from sd3tune.encode.caches import Caches
from sd3tune.plan.evaluation_plan import EvaluationPlan, epochs_at
from sd3tune.processes.world import World
from sd3tune.report.events import Evaluated
from sd3tune.report.progress import Heartbeat, say, waiting
from sd3tune.report.stream import Stream
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.train.evaluation import DRAW
from sd3tune.train.noise import draw
from sd3tune.train.predicting import evaluating
from sd3tune.train.recipe import Recipe
from sd3tune.train.results import versions
from sd3tune.train.state import TrainState

POOLED = "pooled"  # what stands for the dataset with eval_dataset_pooling


@dataclass(frozen=True)
class FixedImage:
    """An image of the evaluation loss."""

    number: int  # its place in the order of the sum
    dataset: str
    batch: Batch | None = None  # on the CPU; None: another process measures it


@dataclass(frozen=True)
class StableLoss:
    """Measures the evaluation loss of the weights that the result would have now."""

    how: EvaluationPlan
    images: Sequence[FixedImage]
    trained_on: bool  # these are training images: there is no `eval` dataset
    recipe: Recipe
    world: World
    stream: Stream

    @classmethod
    def of(
        cls, how: EvaluationPlan, caches: Caches, recipe: Recipe, world: World, stream: Stream
    ) -> "StableLoss":
        """Reads this process's images from the caches. Of split weights (FSDP) every process must
        run the same number of passes: one that has an image less repeats the first."""
        prepared = caches.prepared
        listed = list(listed_images(how, caches))
        mine = set(range(world.processes.rank, len(listed), world.size))
        if prepared.plan.parallel.sharded and len(mine) < -(-len(listed) // world.size):
            mine.add(0)
        images = [
            FixedImage(i, s.dataset, fixed_batch(caches, s) if i in mine else None)
            for i, s in enumerate(listed)
        ]
        trained = {d.id for d in prepared.datasets.images}
        return cls(how, images, {s.dataset for s in listed} <= trained, recipe, world, stream)

    def measure(self, state: TrainState) -> float:
        """The mean over all images and levels. An event for each dataset, and a line. Every
        process must call this."""
        mine, levels = [i for i in self.images if i.batch is not None], self.how.levels
        rows: list[tuple[int, list[float]]] = []
        heart = Heartbeat()
        with (
            out_of_memory.during("measuring the evaluation loss"),
            versions(state)[0].values(),
            evaluating(state.trained),
            waiting(lambda: f"measuring the evaluation loss, {len(rows)} of {len(mine)} images"),
        ):
            for image in mine:
                assert image.batch is not None
                batch = image.batch.each(lambda t: t.to(self.world.device))
                each = list(losses_at(state.trained, batch, self.recipe, levels))
                rows.append((image.number, each))
                heart.beat()
        losses = dict(self.world.gathered(tuple(rows)))
        return self._report(state.step, losses)

    def _report(self, step: int, losses: dict[int, list[float]]) -> float:
        grouped: dict[str, list[list[float]]] = {}
        for image in self.images:
            name = POOLED if self.how.pooled else image.dataset
            grouped.setdefault(name, []).append(losses[image.number])
        for name, rows in grouped.items():
            by_level = {
                level: mean([row[i] for row in rows]) for i, level in enumerate(self.how.levels)
            }
            loss = mean([loss for row in rows for loss in row])
            self.stream.emit(Evaluated(step, name, loss, by_level, self.trained_on))
        return mean([loss for rows in grouped.values() for row in rows for loss in row])

    def due(self, schedule: Schedule, steps: int) -> Callable[[TrainState], bool]:
        """Whether the state's step is followed by a measurement: those of the intervals, and the
        last one."""
        every, epochs = self.how.every_steps, self.how.every_epochs

        def parts(position: int) -> int:
            return int(epochs_at(schedule, position) / Fraction(str(epochs))) if position > 0 else 0

        def is_due(state: TrainState) -> bool:
            if state.step == steps or (every and state.step % every == 0):
                return True
            at = state.position
            return bool(epochs) and parts(at) > parts(at - schedule.batches_per_step)

        return is_due

    def say(self, step: int, loss: float, remark: str) -> None:
        """The line on the terminal."""
        of = "training images" if self.trained_on else "images"
        say(f"evaluation loss {loss:.4f} after step {step}, {len(self.images)} {of}{remark}")


def listed_images(how: EvaluationPlan, caches: Caches) -> Iterator[Sample]:
    """The images of every evaluated dataset, those with the lowest ids."""
    prepared = caches.prepared
    for dataset in prepared.datasets.evaluated(how.dataset):
        if (discovery := prepared.discoveries.get(dataset.id)) is not None:
            different = {s.id: s for s in discovery.samples}
            yield from sorted(different.values(), key=lambda s: s.id)[: how.images]


def fixed_batch(caches: Caches, s: Sample, caption: str | None = None) -> Batch:
    """One image as it is always measured: with its first caption, or with another one, on the CPU,
    as float32."""
    embeds, pooled = caches.embeds(s.captions[0] if caption is None else caption, s.dataset)
    mean_of_posterior, _ = caches.posterior(s)
    mask = caches.mask(s)
    batch = Batch((s.id,), mean_of_posterior[None].float(), embeds[None], pooled[None])
    batch = batch.each(lambda t: t.float())
    return batch if mask is None else replace(batch, mask=mask[None].float() / 255)


def losses_at(
    trained: Trained, batch: Batch, recipe: Recipe, levels: Sequence[float]
) -> Iterator[float]:
    """The squared error of one image at each level, weighed by its mask where training uses masks.
    The noise is a function of the run's seed, the image and the level's number."""
    device, model = batch.latents.device, denoiser(trained.model)
    weight = batch.mask if recipe.loss.masked else None
    terms = flow.Terms(weight=weight, share=recipe.loss.mask_share)
    for number, level in enumerate(levels):
        eps = draw(recipe.seed, DRAW + number, batch).eps
        s = torch.full((len(batch.ids),), level, device=device)
        condition = batch.prompt_embeds, batch.pooled
        with torch.no_grad(), kernel(recipe.attention), autocast(device, recipe.autocast):
            yield flow.loss(model, batch.latents, condition, eps, s, terms).item()


def mean(values: Sequence[float]) -> float:
    """Without an error of rounding, so in any order the same."""
    return math.fsum(values) / len(values)
