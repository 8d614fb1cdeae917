"""Noise levels: which one an image is asked at, as a function of (seed, step, image).

Computed on the CPU: MPS has no float64, and every vendor shall see the same levels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sd3tune.config.config import Config
from sd3tune.data.batch import Batch
from sd3tune.data.seeds import seed_of
from sd3tune.sd3 import flow
from sd3tune.sd3.variants import PATCH
from sd3tune.train import cubic


@dataclass(frozen=True)
class Levels:
    """How levels are drawn; the first of listed, uniform, beta, weights that is set, otherwise
    logit-normal."""

    shift: float | None = 1.0  # None: by the number of tokens (flow_schedule_auto_shift)
    scale: float = 1.0  # of the logit-normal distribution
    uniform: bool = False
    beta: tuple[float, float] | None = None  # alpha and beta of a Beta distribution
    weights: tuple[float, ...] = ()  # of a cubic schedule
    listed: tuple[float, ...] = ()  # the only levels there are; not shifted
    in_turn: bool = False  # every image walks through `listed` instead of drawing from it

    def __call__(self, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
        """Levels (B,) float32 on the CPU, as the network sees them. u: uniform in (0, 1), (B,)."""
        if self.listed:
            return self._from_list(seed, step, batch, u)
        return flow.shifted(self._drawn(seed, step, batch, u), shift_of(batch, self.shift))

    def _drawn(self, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
        if self.uniform:
            return u
        if self.beta is not None:
            return torch.tensor([_beta(seed, step, i, *self.beta) for i in batch.ids])
        if self.weights:
            return cubic.quantile(u, self.weights)
        return flow.logit_normal(u, self.scale, batch.level_offset)

    def _from_list(self, seed: int, step: int, batch: Batch, u: Tensor) -> Tensor:
        count = len(self.listed)
        if self.in_turn:  # each image begins at a place of its own
            places = [(step + seed_of(seed, i, "turn")) % count for i in batch.ids]
        else:
            places = [int(x * count) for x in u.tolist()]
        return torch.tensor([self.listed[p] for p in places])


def levels_of(c: Config) -> Levels:
    return Levels(
        shift=None if c.flow_schedule_auto_shift else c.flow_schedule_shift,
        scale=c.flow_sigmoid_scale,
        uniform=c.flow_use_uniform_schedule,
        beta=(c.flow_beta_schedule_alpha, c.flow_beta_schedule_beta)
        if c.flow_use_beta_schedule
        else None,
        weights=c.flow_cubic_schedule_weights,
        listed=c.flow_custom_timesteps,
        in_turn=c.flow_timesteps_mode == "round-robin",
    )


def shift_of(batch: Batch, shift: float | None) -> float:
    height, width = batch.latents.shape[-2:]
    return flow.auto_shift((height // PATCH) * (width // PATCH)) if shift is None else shift


def _beta(seed: int, step: int, image: int, alpha: float, beta: float) -> float:
    """One draw; torch has neither the quantile function nor a seeded sampler."""
    return float(np.random.default_rng(seed_of(seed, step, image, "beta")).beta(alpha, beta))
