"""The loss of each image of a batch: draws noise and noise levels, and scores the network's error.

This module combines what the settings add to the paper's loss (masks, rollouts, other distances).
The equations are in sd3/flow.py.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained
from sd3tune.data.batch import Batch
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.train.latent_loss import distance
from sd3tune.train.noise import Points, another, dice, drawn
from sd3tune.train.predicting import evaluating, without_adapter
from sd3tune.train.recipe import Recipe
from sd3tune.train.rollout import offsets, roll_out


@dataclass(frozen=True)
class Losses:
    """The loss, noise level and noise digest of each image of a batch, (B,)."""

    each: Tensor
    levels: Tensor  # noise levels, on the CPU
    noise: tuple[int, ...]  # digest of each image's noise


def losses(
    trained: Trained, batch: Batch, recipe: Recipe, step: int, wrapped: Any = None
) -> Losses:
    """The loss of each image of a batch. wrapped: the model inside DDP, where several processes
    train."""
    noise = drawn(recipe.loss.levels, recipe.seed, step, batch)
    at = Points(batch, step, noise.eps, noise.levels.to(batch.latents.device))
    terms = terms_of(trained, at, recipe)
    model, condition = denoiser(trained.model, wrapped), (batch.prompt_embeds, batch.pooled)
    with autocast(batch.latents.device, recipe.autocast):
        each = flow.loss(model, batch.latents, condition, at.eps, at.s, terms)
    return Losses(each, noise.levels, noise.digests)


def terms_of(trained: Trained, at: Points, recipe: Recipe) -> flow.Terms:
    """What the settings add to the paper's loss. For images of a regularisation dataset, the target
    is the prediction without the adapter, and there is no rollout."""
    loss, batch, model = recipe.loss, at.batch, trained.model
    masked = dice(recipe.seed, at.step, batch.draw, "mask") < loss.masked
    terms = flow.Terms(
        z=network_input(at, recipe),
        distance=distance(loss, at.s),
        weight=batch.mask if masked else None,
        share=loss.mask_share,
        teacher=partial(without_adapter, trained) if batch.regularisation else None,
    )
    if loss.rollout is None or batch.regularisation:
        return terms
    steps = offsets(loss.rollout, recipe.seed, at.step, batch, at.s)
    if not any(steps):
        return terms
    with torch.no_grad(), evaluating(trained), autocast(batch.latents.device, recipe.autocast):
        return roll_out(denoiser(model), at, steps, terms, loss.rollout.reflex)


def network_input(at: Points, recipe: Recipe) -> Tensor:
    """The network's input: the point of the path, or with input_perturbation a point with more
    noise than the target has."""
    eps = at.eps
    if more := recipe.loss.perturbation_at(at.step):
        eps = eps + more * another(recipe.seed, at.step, at.batch, "perturbation")
    return flow.add_noise(at.batch.latents, eps, at.s)
