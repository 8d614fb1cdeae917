"""The learning rate as a pure function of the step: nothing to save, nothing to go stale.

A run of `total` steps takes its updates at steps 0 … total - 1. Every schedule but `constant` warms
up: the rate rises linearly and reaches its peak at step `warmup`; step 0 already moves (diffusers'
schedules spend it at rate 0). What falls, falls from there and would reach `end` at step `total`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


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
        if self.name == "constant":
            return self.peak
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.end + (self.peak - self.end) * SHAPES[self.name](self, done)


def _half_wave(part: float) -> float:
    """SGDR's cosine (arXiv:1608.03983, equation 5): from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * part))


def _restarting(rate: LearningRate, done: float) -> float:
    return 0.0 if done >= 1 else _half_wave(rate.cycles * done % 1.0)


# What is left of the way from end to peak when `done` (0 … 1) of the steps after warm-up are taken.
SHAPES: dict[str, Callable[[LearningRate, float], float]] = {
    "constant_with_warmup": lambda rate, done: 1.0,
    "linear": lambda rate, done: 1 - done,
    "polynomial": lambda rate, done: (1 - done) ** rate.power,
    "cosine": lambda rate, done: _half_wave(done),
    "cosine_with_restarts": _restarting,
}
