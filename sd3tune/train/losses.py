"""The loss of each image of a batch: noise drawn, levels chosen, the network asked.

What the settings add to the paper's loss (masks, rollouts, other distances) is put together here;
the equations are sd3/flow.py's.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained
from sd3tune.data.batch import Batch
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import Denoiser
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.table import load
from sd3tune.train.levels import Levels
from sd3tune.train.noise import another, dice, draw, perturbation
from sd3tune.train.rollout import Rollout, Shown, rolled


@dataclass(frozen=True)
class Recipe:
    """How one step is taken: what the plan decided, and nothing that changes."""

    seed: int
    levels: Levels
    max_grad_norm: float  # 0: no clipping
    autocast: torch.dtype | None
    attention: str
    grad_clip_method: str = "norm"
    masked: float = 1.0  # share of the batches with masks whose loss is weighed by them
    mask_share: bool = False  # the loss of those is divided by the mask's sum
    loss_type: str = "l2"
    huber_c: float = 0.1
    huber_schedule: str = "snr"
    perturbation: float = 0.0  # input_perturbation
    perturbation_steps: int = 0
    rollout: Rollout | None = None


@dataclass(frozen=True)
class Losses:
    """Of each image of a batch, (B,)."""

    each: Tensor
    levels: Tensor  # noise levels, on the CPU
    noise: tuple[int, ...]  # digest of each image's noise


def losses(trained: Trained, batch: Batch, recipe: Recipe, step: int, called: Any = None) -> Losses:
    """The paper's loss for each image of a batch."""
    digests: list[int] = []
    eps, u = draw(recipe.seed, step, batch, digests)
    levels = recipe.levels(recipe.seed, step, batch, u)
    s = levels.to(batch.latents.device)
    weight = batch.mask if dice(recipe.seed, step, batch.ids[0], "mask") < recipe.masked else None
    asked = shown(trained, batch, recipe, step, eps, s, weight)
    with autocast(batch, recipe):
        each = flow.loss(
            Denoiser(trained.model, called),
            batch.latents,
            (batch.prompt_embeds, batch.pooled),
            eps,
            s,
            z=asked.z,
            distance=distance(recipe, s),
            emphasis=asked.emphasis,
            weight=weight,
            share=recipe.mask_share,
            drift=asked.drift,
            teacher=partial(without_adapter, trained) if batch.regularisation else None,
        )
    return Losses(each, levels, tuple(digests))


def distance(recipe: Recipe, s: Tensor) -> flow.Change:
    """What each latent's error counts, as the row of `loss_type` says. s: noise levels (B,)."""
    row = LOSS_TYPES[recipe.loss_type]
    change: Callable[..., Tensor] = load(row.distance)
    if not row.bends:
        return change
    return partial(change, c=flow.huber_width(s, recipe.huber_c, recipe.huber_schedule))


def shown(
    trained: Trained,
    batch: Batch,
    recipe: Recipe,
    step: int,
    eps: Tensor,
    s: Tensor,
    weight: Tensor | None,
) -> Shown:
    """What the network is shown: the path's point, with more noise than the target knows of, or
    where it rolls to. Regularisation keeps to the path: there the old model is the measure."""
    noise = eps
    if more := perturbation(recipe.perturbation, recipe.perturbation_steps, step):
        noise = eps + more * another(recipe.seed, step, batch, "perturbation")
    z = flow.add_noise(batch.latents, noise, s)
    if recipe.rollout is None or batch.regularisation:
        return Shown(z)
    offsets = recipe.rollout.offsets(recipe.seed, step, batch, s)
    if not any(offsets):
        return Shown(z)
    with torch.no_grad(), quiet(trained, adapter=True), autocast(batch, recipe):
        return rolled(recipe.rollout, Denoiser(trained.model), batch, eps, s, z, offsets, weight)


def without_adapter(trained: Trained, z: Tensor, t: Tensor, condition: Any) -> Tensor:
    """What the model said before it was adapted: the target on regularisation images."""
    with quiet(trained, adapter=False):
        return Denoiser(trained.model)(z, t, condition)


@contextmanager
def quiet(trained: Trained, adapter: bool) -> Iterator[None]:
    """Dropout off, and the adapter too unless asked for; as before afterwards."""
    training = trained.model.training
    trained.model.eval()
    try:
        with nullcontext() if adapter else trained.off():
            yield
    finally:
        trained.model.train(training)


def autocast(batch: Batch, recipe: Recipe) -> AbstractContextManager[None]:
    # Entered per forward: one context around the whole loop would cache the casts of LoRA weights
    # and freeze them at their first value (seen with torch 2.13).
    if recipe.autocast is None:
        return nullcontext()
    device = batch.latents.device.type
    context: AbstractContextManager[None] = torch.autocast(device, recipe.autocast)
    return context
