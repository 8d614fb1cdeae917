"""Scheduled sampling: for some images the network's input is a point that the network itself has
reached, instead of a point of the path.

Sampling feeds the network its own predictions; training on points of the path alone never shows it
what its errors lead to (exposure bias). Here an image's input at level s is made by Euler steps of
1/1000 from a higher level of the same path (same x0, same eps), with the present weights, without
gradient and without dropout: that is how pictures are made. The target stays eps - x0.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sd3tune.data.batch import Batch
from sd3tune.plan.objective import ReflexWeights, Rollout
from sd3tune.sd3 import flow, reflexflow
from sd3tune.train.noise import Points, dice

STEP = 1 / flow.TIMESTEPS  # in noise level


def offsets(rollout: Rollout, seed: int, step: int, batch: Batch, s: Tensor) -> list[int]:
    """Euler steps for each image; 0: the image is trained on the straight path. No step goes beyond
    level 1. s (B,): noise levels."""
    chance, steps = rollout.chance(step), []
    for sample, level in zip(batch.draws, s.tolist(), strict=True):
        rolls = dice(seed, step, sample, "rollout") < chance
        wanted = rollout.steps(dice(seed, step, sample, "offset")) if rolls else 0
        steps.append(min(wanted, int((1 - level) / STEP)))
    return steps


def roll(
    model: flow.Model, x0: Tensor, condition: Any, eps: Tensor, s: Tensor, offsets: list[int]
) -> Tensor:
    """Where Euler steps lead each image from level s + offset / 1000 of its path down to s. s (B,)
    float32; condition: a tuple of tensors with images first. Images of offset 0 stay on the path.
    """
    left = torch.tensor(offsets)
    z = flow.add_noise(x0, eps, _level(s, left))
    while left.any():
        rows = (left == left.max()).nonzero()[:, 0].to(s.device)  # the furthest go first
        part = tuple(c[rows] for c in condition)
        t = _level(s, left)[rows] * flow.TIMESTEPS
        z[rows] = z[rows] - STEP * model(z[rows], t, part).float()
        left[rows.cpu()] -= 1
    return z


def roll_out(
    model: flow.Model,
    at: Points,
    steps: list[int],
    terms: flow.Terms,
    reflex: ReflexWeights | None,
) -> flow.Terms:
    """`terms` for a batch of which some images are rolled out: their input is where `steps` Euler
    steps lead, and ReflexFlow adds its emphasis and drift. model: without gradient and dropout."""
    x0, condition = at.batch.latents, (at.batch.prompt_embeds, at.batch.pooled)
    assert terms.z is not None
    away = torch.tensor([n > 0 for n in steps], device=terms.z.device)
    zr = torch.where(
        away.view(-1, 1, 1, 1), roll(model, x0, condition, at.eps, at.s, steps), terms.z
    )
    if reflex is None:
        return replace(terms, z=zr)
    rows = away.nonzero()[:, 0]
    part, t = tuple(c[rows] for c in condition), at.s[rows] * flow.TIMESTEPS
    clean = model(flow.add_noise(x0, at.eps, at.s)[rows], t, part).float()
    rolled = model(zr[rows], t, part).float()
    emphasis = torch.ones_like(terms.z)
    emphasis[rows] = reflexflow.emphasis(clean, rolled, reflex.alpha, reflex.beta2)

    def drift(v: Tensor) -> Tensor:
        return torch.where(away, reflexflow.drift(v, zr, x0, reflex.beta1, terms.weight), 0)

    return replace(terms, z=zr, emphasis=emphasis, drift=drift)


def _level(s: Tensor, steps: Tensor) -> Tensor:
    return s + steps.to(s.device, s.dtype) * STEP
