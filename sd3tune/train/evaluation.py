"""The loss on a few fixed images at fixed noise levels: the same question before and after."""

from collections.abc import Sequence

import torch

from sd3tune.adapters.trained import Trained
from sd3tune.data.batch import Batch
from sd3tune.encode.caches import Caches
from sd3tune.plan.evaluation_plan import MEASURED_TWICE
from sd3tune.report.progress import stage
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.train.noise import draw
from sd3tune.train.predicting import evaluating
from sd3tune.train.recipe import Recipe
from sd3tune.train.results import versions
from sd3tune.train.state import TrainState

# As the network sees them. A shift says how often levels are visited, not what a level is: left
# unshifted, runs of any shift and image size are asked the same.
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
DRAW = 2**31  # a step no run reaches: these draws are never trained on


def fixed_batches(caches: Caches, device: torch.device) -> list[Batch]:
    """A few images alone in their batches, with their first caption and the posterior's mean: of
    the eval datasets where there are any, otherwise those with the lowest ids."""
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
    return batches


def evaluate_before(state: TrainState, batches: Sequence[Batch], recipe: Recipe) -> None:
    """Measures the model before any training, unless a checkpoint knows it."""
    if state.loss_before is None:
        adapter = not state.trained.keeps_base
        state.loss_before = evaluate(state.trained, batches, recipe, adapter=adapter)


def evaluate_after(state: TrainState, batches: Sequence[Batch], recipe: Recipe) -> float:
    """Measures the weights of the result."""
    with versions(state)[0].values():
        return evaluate(state.trained, batches, recipe)


def evaluate(
    trained: Trained, batches: Sequence[Batch], recipe: Recipe, *, adapter: bool = True
) -> float:
    """Mean loss over images and LEVELS. adapter=False: of the model before any training."""
    total = 0.0
    with (
        torch.no_grad(),
        evaluating(trained, adapter=adapter),
        stage("evaluate", len(batches) * len(LEVELS)) as bar,
    ):
        for batch in batches:
            for number, level in enumerate(LEVELS):
                device, model = batch.latents.device, denoiser(trained.model)
                eps = draw(recipe.seed, DRAW + number, batch).eps
                s = torch.full((len(batch.ids),), level, device=device)
                condition = batch.prompt_embeds, batch.pooled
                with autocast(device, recipe.autocast):
                    loss = flow.loss(model, batch.latents, condition, eps, s)
                total += loss.mean().item()
                bar.advance()
    return total / (len(batches) * len(LEVELS))
