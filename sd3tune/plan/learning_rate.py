"""The learning rate as a pure function of the step: nothing to save, nothing to go stale.

A run of `total` steps takes its updates at steps 0 … total - 1. Every schedule but `constant` warms
up: the rate rises linearly and reaches its peak at step `warmup`; step 0 already moves (diffusers'
schedules spend it at rate 0). What falls, falls from there and would reach `end` at step `total`.
"""

import math
from dataclasses import dataclass

from sd3tune.tables.lr_schedulers import LR_SCHEDULERS
from sd3tune.tables.table import load


@dataclass(frozen=True)
class LearningRate:
    """name: lr_scheduler."""

    name: str
    peak: float
    total: int
    warmup: int = 0
    end: float = 0.0
    power: float = 1.0  # polynomial
    cycles: int = 1  # cosine_with_restarts

    def at(self, step: int) -> float:
        """The rate of the update that follows `step` finished ones."""
        row = LR_SCHEDULERS[self.name]
        if not row.warms_up:
            return self.peak
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.end + (self.peak - self.end) * float(load(row.share)(self, done))


# The share of the way from `end` up to the peak, when the share `done` (0 to 1) of the steps after
# warm-up is done. Which schedule has which: tables/lr_schedulers.py.


def whole(rate: LearningRate, done: float) -> float:
    return 1.0


def linear(rate: LearningRate, done: float) -> float:
    return 1 - done


def polynomial(rate: LearningRate, done: float) -> float:
    return float((1 - done) ** rate.power)


def cosine(rate: LearningRate, done: float) -> float:
    """SGDR's cosine (arXiv:1608.03983, equation 5): from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * done))


def cosine_with_restarts(rate: LearningRate, done: float) -> float:
    return 0.0 if done >= 1 else cosine(rate, rate.cycles * done % 1.0)
