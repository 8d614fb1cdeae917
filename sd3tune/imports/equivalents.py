"""Learning-rate equivalents: what makes runs of different trainers comparable, as plain numbers.

A LoRA's update is alpha / rank times B A. Adam moves B by about the learning rate, so that the
first updates of two runs are alike where learning rate x alpha / rank is. Noise levels are given by
the quantiles of their distribution.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.imports.densities import Density
from sd3tune.imports.project import files_of
from sd3tune.imports.trainers import is_ours, translated

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Equivalent:
    """One run. rate: peak learning rate; scale: alpha / rank, 1 without an adapter; images: of an
    optimizer step; steps: None where they follow from epochs; levels: quantiles of the noise
    levels, None where the distribution has no closed form; mean_weight: mean of loss_weighting over
    them."""

    name: str
    trainer: str
    optimizer: str
    rate: float
    scale: float
    images: int
    steps: int | None
    epochs: int | None
    weighting: str
    levels: tuple[float, ...] | None
    mean_weight: float | None
    clip: float

    @property
    def effective_rate(self) -> float:
        """Learning rate x alpha / rank."""
        return self.rate * self.scale

    @property
    def images_seen(self) -> int | None:
        """Steps x images of a step."""
        return None if self.steps is None else self.steps * self.images

    def rate_as(self, other: "Equivalent") -> float:
        """The learning rate here with which the first update is as large as that of `other`."""
        return other.effective_rate / self.scale


def equivalents(paths: Sequence[Path]) -> list[Equivalent]:
    """One for each file, of sd3tune or of another trainer. Raises ConfigError."""
    return [_equivalent(path) for path in paths]


def _equivalent(path: Path) -> Equivalent:
    ours = _of_sd3tune(path)
    if ours is not None:
        return of_settings(str(path), "sd3tune", ours)
    t = translated(path)
    config = files_of(t)["config/config.json"]
    known = {k: v for k, v in config.items() if k in AllSettings.model_fields}
    return of_settings(str(path), t.trainer, AllSettings.model_validate(known))


def _of_sd3tune(path: Path) -> AllSettings | None:
    """The settings of a file of ours; None for another program's."""
    from sd3tune.config.config import Config

    if path.suffix == ".env":
        return Config.load(path)
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return Config.load(path) if is_ours(data) else None


def of_settings(name: str, trainer: str, c: AllSettings) -> Equivalent:
    """The numbers of a run with these settings."""
    is_lora = c.model_type == "lora"
    alpha = c.lora_alpha if c.lora_alpha is not None else c.lora_rank
    root = c.lora_rank**0.5 if c.use_rslora else c.lora_rank
    images = (c.train_batch_size or 4) * c.gradient_accumulation_steps * c.num_processes
    factor = (images**0.5 if c.lr_scale_sqrt else images) if c.lr_scale else 1
    quantile = _quantile(c)
    return Equivalent(
        name, trainer, c.optimizer or "adamw", c.learning_rate * factor,
        alpha / root if is_lora else 1.0, images, c.max_train_steps, c.num_train_epochs,
        c.loss_weighting, None if quantile is None else tuple(map(quantile, QUANTILES)),
        None if quantile is None else _mean_weight(c.loss_weighting, quantile), c.max_grad_norm,
    )  # fmt: skip


def _quantile(c: AllSettings) -> Callable[[float], float] | None:
    """The quantile function of the noise levels."""
    listed = sorted(c.flow_custom_timesteps)
    if listed:
        return lambda p: listed[min(len(listed) - 1, int(p * len(listed)))]
    if c.flow_use_beta_schedule or c.flow_cubic_schedule_weights or c.flow_schedule_auto_shift:
        return None
    if c.flow_use_uniform_schedule:
        return Density("uniform", shift=c.flow_schedule_shift).quantile
    return Density(std=c.flow_sigmoid_scale, shift=c.flow_schedule_shift).quantile


WEIGHTS: Mapping[str, Callable[[float], float]] = {
    "none": lambda s: 1.0,
    "x0": lambda s: s * s,
    "sigma_sqrt": lambda s: 1 / max(s, 1e-3) ** 2,
    "cosmap": lambda s: 2 / (3.141592653589793 * (1 - 2 * s + 2 * s * s)),
}


def _mean_weight(name: str, quantile: Callable[[float], float], count: int = 1000) -> float:
    """The mean of a loss weighting over the distribution."""
    parts = ["x0", "cosmap"] if name == "x0_cosmap" else [name]
    total = 0.0
    for i in range(count):
        value = 1.0
        for part in parts:
            value *= WEIGHTS[part](quantile((i + 0.5) / count))
        total += value
    return total / count


def described(e: Equivalent) -> dict[str, Any]:
    """As `config compare --json` has it."""
    return {**e.__dict__, "effective_rate": e.effective_rate, "images_seen": e.images_seen}
