"""The loss on a few fixed images at fixed noise levels: the same question before and after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained
from sd3tune.data.batch import Batch
from sd3tune.encode.caches import Caches
from sd3tune.plan.evaluation_plan import MEASURED_TWICE
from sd3tune.report.progress import stage
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.train.loop import Chore
from sd3tune.train.noise import draw
from sd3tune.train.predicting import evaluating
from sd3tune.train.recipe import Recipe
from sd3tune.train.results import versions
from sd3tune.train.state import TrainState

# As the network sees them. A shift says how often levels are visited, not what a level is: left
# unshifted, runs of any shift and image size are asked the same.
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
DRAW = 2**31  # a step no run reaches: these draws are never trained on
Asked = tuple[Batch, int]  # one image, and the number of its level


@dataclass(frozen=True)
class FixedImages:
    """What both measurements see."""

    batches: tuple[Batch, ...]  # one image each, on the device
    together: int  # images in one forward pass: as many as a training step has


def fixed_images(caches: Caches, device: torch.device) -> FixedImages:
    """A few images, with their first caption and the posterior's mean: of the eval datasets where
    there are any, otherwise those with the lowest ids."""
    prepared = caches.prepared
    trained = (s for s in prepared.samples
               if not prepared.dataset(s.dataset).is_regularisation_data)  # fmt: skip
    images = prepared.evals or tuple(trained) or prepared.samples
    chosen = sorted({s.id: s for s in images}.values(), key=lambda s: s.id)[:MEASURED_TWICE]
    batches = []
    for s in chosen:
        embeds, pooled = caches.embeds(s.captions[0], s.dataset)
        mean, _ = caches.posterior(s)
        batch = Batch((s.id,), mean[None], embeds[None], pooled[None])
        batches.append(batch.each(lambda t: t.to(device).float()))
    return FixedImages(tuple(batches), prepared.plan.images_per_pass)


def before_training(state: TrainState, images: FixedImages, recipe: Recipe) -> list[Chore]:
    """Measures the model before any training, unless a checkpoint knows it. Where the base can be
    asked at any time, training begins first: the chore measures after the first step, before
    anything is saved."""
    if state.loss_before is not None:
        return []
    if state.trained.keeps_base:
        measure = partial(_measure_base, state, images, recipe)
        return [Chore(lambda state: state.loss_before is None, measure)]
    state.loss_before = evaluate(state.trained, images, recipe)
    return []


def _measure_base(state: TrainState, images: FixedImages, recipe: Recipe) -> None:
    state.loss_before = evaluate(state.trained, images, recipe, adapter=False)


def evaluate_after(state: TrainState, images: FixedImages, recipe: Recipe) -> float:
    """Measures the weights of the result."""
    with versions(state)[0].values():
        return evaluate(state.trained, images, recipe)


def evaluate(
    trained: Trained, images: FixedImages, recipe: Recipe, *, adapter: bool = True
) -> float:
    """Mean loss over images and LEVELS. adapter=False: of the model before any training."""
    asked = [(batch, number) for batch in images.batches for number in range(len(LEVELS))]
    losses: dict[tuple[int, int], float] = {}  # by image and number of the level
    with (
        torch.no_grad(),
        evaluating(trained, adapter=adapter),
        stage("evaluate", len(asked)) as bar,
    ):
        for group in _groups(asked, images.together):
            keys = [(batch.ids[0], number) for batch, number in group]
            losses |= zip(keys, _losses(trained, group, recipe).tolist(), strict=True)
            bar.advance(len(group))
    return sum(losses[batch.ids[0], number] for batch, number in asked) / len(asked)


def _groups(asked: Sequence[Asked], together: int) -> Iterator[Sequence[Asked]]:
    """Images of one size, up to `together` in each group."""
    sizes: dict[tuple[int, ...], list[Asked]] = {}
    for batch, number in asked:
        sizes.setdefault(tuple(batch.latents.shape), []).append((batch, number))
    for alike in sizes.values():
        yield from (alike[i : i + together] for i in range(0, len(alike), together))


def _losses(trained: Trained, group: Sequence[Asked], recipe: Recipe) -> Tensor:
    """The loss of each image of a group at its level, (B,)."""
    device, model = group[0][0].latents.device, denoiser(trained.model)
    eps = torch.cat([draw(recipe.seed, DRAW + number, batch).eps for batch, number in group])
    s = torch.tensor([LEVELS[number] for _, number in group], device=device)
    condition = (
        torch.cat([batch.prompt_embeds for batch, _ in group]),
        torch.cat([batch.pooled for batch, _ in group]),
    )
    latents = torch.cat([batch.latents for batch, _ in group])
    with autocast(device, recipe.autocast):
        return flow.loss(model, latents, condition, eps, s)
