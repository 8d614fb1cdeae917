"""How often other trainers draw a noise level, and the settings of sd3tune that draw alike.

Facts of the equations: logit(shifted(s, k)) = logit(s) + ln k, so the mean of a logit-normal
distribution is a shift; and 1 - s of a logit-normal s has the mean with the other sign.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from sd3tune.errors import ConfigError

LISTED = 200  # levels of a distribution that has no setting of its own: half a percent each


@dataclass(frozen=True)
class Density:
    """A distribution of noise levels in [0, 1].

    kind: logit_normal (mean, std), uniform, or mode (scale; section 3.1 of arXiv:2403.03206).
    shift: applied to the levels that were drawn. low, high: the part of [0, 1] onto which all of
    them are then mapped, linearly.
    """

    kind: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29
    shift: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def quantile(self, p: float) -> float:
        """The level that a share p of the draws lies below, 0 < p < 1."""
        if self.kind == "uniform":
            s = p
        elif self.kind == "mode":
            s = mode(1 - p, self.scale)
        else:
            s = logistic(NormalDist(self.mean, self.std).inv_cdf(p))
        s = shifted(s, self.shift)
        return self.low + (self.high - self.low) * s

    def settings(self) -> dict[str, Any]:
        """The settings of sd3tune that draw levels alike."""
        if (self.low, self.high) != (0.0, 1.0) or self.kind == "mode":
            return {"flow_custom_timesteps": listed(self.quantile)}
        if self.kind == "uniform":
            return {"flow_use_uniform_schedule": True, "flow_schedule_shift": _number(self.shift)}
        shift = self.shift * math.exp(self.mean)
        return {"flow_schedule_shift": _number(shift), "flow_sigmoid_scale": _number(self.std)}


def checked(density: Density, where: str) -> Density:
    """The density, with numbers that make sense. Raises ConfigError."""
    problem = None
    if not 0 < density.std < 100:
        problem = f"the width {density.std} of the logit-normal distribution is not above 0"
    elif not abs(density.mean) < 20:
        problem = f"the mean {density.mean} of the logit-normal distribution is not plausible"
    elif not 1e-3 < density.shift < 1e3:
        problem = f"the shift {density.shift} is not between 0.001 and 1000"
    elif not 0 <= density.low < density.high <= 1:
        problem = f"noise levels from {density.low} to {density.high} are not a part of 0 to 1"
    elif density.kind == "mode" and not -1 <= density.scale <= 2 / (math.pi - 2):
        problem = f"mode_scale={density.scale} is not between -1 and 1.75, as the paper has it"
    if problem:
        raise ConfigError(f"{where}: {problem}", hint="correct it there and import it again")
    return density


def mode(u: float, scale: float) -> float:
    """The paper's mode sampling of a uniform u: it falls from 1 to 0."""
    return 1 - u - scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u)


def shifted(s: float, shift: float) -> float:
    """s' = shift s / (1 + (shift - 1) s)."""
    return shift * s / (1 + (shift - 1) * s)


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), for any x."""
    return 0.5 * (1 + math.tanh(x / 2))


def listed(quantile: Callable[[float], float], count: int = LISTED) -> list[float]:
    """That many levels, each as likely as the others, which together are the distribution."""
    return [max(1e-4, round(quantile((i + 0.5) / count), 5)) for i in range(count)]


def _number(value: float) -> float:
    return float(f"{value:.7g}")
