"""Scheduled sampling: now and then the network is shown where it got to itself, not the path.

Sampling feeds the network its own answers; training on points of the path alone never shows it
what its errors do (exposure bias). Here an image's input at level s is made by Euler steps of
1/1000 from a higher level of the same path (same x0, same eps), with the present weights, without
gradient and without dropout: that is how pictures are made. The target stays eps - x0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sd3tune.config.config import Config
from sd3tune.data.batch import Batch
from sd3tune.sd3 import flow
from sd3tune.sd3.reflexflow import Reflex
from sd3tune.train.noise import dice

STEP = 1 / flow.TIMESTEPS  # in noise level

Strategy = Literal["uniform", "biased_early", "biased_late"]


@dataclass(frozen=True)
class Rollout:
    """When, and from how far. Every draw is a function of (seed, step, image)."""

    longest: int  # Euler steps at most
    probability: float = 0.0
    begin: float = 0.0  # with ramp_steps: from this probability
    end: float = 0.5  # to this one
    ramp_steps: int = 0
    start_step: int = 0
    shape: Literal["linear", "cosine"] = "linear"
    strategy: Strategy = "uniform"
    reflex: Reflex | None = None

    def chance(self, step: int) -> float:
        """Share of the images that are rolled out after `step` finished steps."""
        if step < self.start_step:
            return 0.0
        if not self.ramp_steps:
            return self.probability
        done = min(1.0, (step - self.start_step) / self.ramp_steps)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.begin + (self.end - self.begin) * done

    def offsets(self, seed: int, step: int, batch: Batch, s: Tensor) -> list[int]:
        """Euler steps for each image, 0 for those shown the path. None reaches beyond level 1."""
        chance, found = self.chance(step), []
        for image, level in zip(batch.ids, s.tolist(), strict=True):
            rolls = dice(seed, step, image, "rollout") < chance
            steps = self.steps(dice(seed, step, image, "offset")) if rolls else 0
            found.append(min(steps, int((1 - level) / STEP)))
        return found

    def steps(self, u: float) -> int:
        """1 to longest by a uniform number: `uniform` all alike; `biased_early` in proportion to
        longest, …, 2, 1, so that short ways are taken most; `biased_late` to 1, 2, …, longest."""
        n = self.longest
        if self.strategy == "uniform":
            return 1 + min(n - 1, int(u * n))
        weights = range(1, n + 1) if self.strategy == "biased_late" else range(n, 0, -1)
        below, total = 0, n * (n + 1) // 2
        for steps, weight in enumerate(weights, 1):
            below += weight
            if u * total < below:
                return steps
        return n


@dataclass(frozen=True)
class Shown:
    """What the network is shown, and what that changes in its loss. flow.loss takes all three."""

    z: Tensor
    emphasis: Tensor | None = None
    drift: Callable[[Tensor], Tensor] | None = None


def roll(
    model: flow.Model, x0: Tensor, condition: Any, eps: Tensor, s: Tensor, offsets: list[int]
) -> Tensor:
    """Where Euler steps lead each image from level s + offset / 1000 of its path down to s. s (B,)
    float32; condition: a tuple of tensors with images first. Images of offset 0 stay on the path.
    """
    left = torch.tensor(offsets)
    z = flow.add_noise(x0, eps, level(s, left))
    while left.any():
        rows = (left == left.max()).nonzero()[:, 0].to(s.device)  # the furthest go first
        part = tuple(c[rows] for c in condition)
        t = level(s, left)[rows] * flow.TIMESTEPS
        z[rows] = z[rows] - STEP * model(z[rows], t, part).float()
        left[rows.cpu()] -= 1
    return z


def level(s: Tensor, steps: Tensor) -> Tensor:
    return s + steps.to(s.device, s.dtype) * STEP


def rolled(
    rollout: Rollout,
    model: flow.Model,
    batch: Batch,
    eps: Tensor,
    s: Tensor,
    z: Tensor,
    offsets: list[int],
    weight: Tensor | None,
) -> Shown:
    """z with the images that have an offset replaced by where they roll to. model: without
    gradient and dropout."""
    condition = batch.prompt_embeds, batch.pooled
    away = torch.tensor([o > 0 for o in offsets], device=z.device)
    path = roll(model, batch.latents, condition, eps, s, offsets)
    zr = torch.where(away.view(-1, 1, 1, 1), path, z)
    if (reflex := rollout.reflex) is None:
        return Shown(zr)
    rows = away.nonzero()[:, 0]
    part, t = tuple(c[rows] for c in condition), s[rows] * flow.TIMESTEPS
    clean = flow.add_noise(batch.latents, eps, s)[rows]
    emphasis = torch.ones_like(z)
    emphasis[rows] = reflex.emphasis(
        model(clean, t, part).float(), model(zr[rows], t, part).float()
    )
    return Shown(
        zr,
        emphasis,
        lambda v: torch.where(away, reflex.drift(v, zr, batch.latents, weight), 0),
    )


def rollout_of(c: Config) -> Rollout | None:
    if not c.scheduled_sampling_max_step_offset:
        return None
    reflex = Reflex(
        c.scheduled_sampling_reflexflow_alpha,
        c.scheduled_sampling_reflexflow_beta1,
        c.scheduled_sampling_reflexflow_beta2,
    )
    return Rollout(
        c.scheduled_sampling_max_step_offset,
        c.scheduled_sampling_probability,
        c.scheduled_sampling_prob_start,
        c.scheduled_sampling_prob_end,
        c.scheduled_sampling_ramp_steps,
        c.scheduled_sampling_start_step,
        c.scheduled_sampling_ramp_shape,
        c.scheduled_sampling_strategy,
        None if c.scheduled_sampling_reflexflow is False else reflex,
    )
