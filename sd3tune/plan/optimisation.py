"""How weights follow gradients: the optimizer, its learning rate, clipping, the moving average."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sd3tune.config.config import Config
from sd3tune.decision import Decision, following
from sd3tune.plan.learning_rate import LearningRate
from sd3tune.plan.length import DataPlan, as_set


@dataclass(frozen=True)
class AveragePlan:
    """A moving average of what is trained (use_ema)."""

    decay: float
    warmup_steps: int  # in which the average is a copy
    every: int  # steps between updates
    device: Literal["cpu", "accelerator"]


@dataclass(frozen=True)
class OptimizerPlan:
    """Everything between a gradient and the next weights."""

    name: Decision[str]
    options: Mapping[str, Any]  # as the user set them
    peak_rate: Decision[float]  # learning_rate, scaled by lr_scale
    rate: LearningRate
    max_grad_norm: float  # 0: gradients are not clipped
    clip_method: Literal["norm", "value"]
    gradients: Literal["unmodified", "fp32"]  # format in which accumulated gradients are added up
    average: AveragePlan | None


def optimizer_plan(
    config: Config, name: Decision[str], data: DataPlan, processes: int
) -> OptimizerPlan:
    """name: the optimizer that was chosen. processes: that train together, for lr_scale."""
    peak = scaled_rate(config, data.batch_size.value, processes)
    rate = LearningRate(
        name=config.lr_scheduler,
        peak=peak.value,
        total=data.steps.value,
        warmup=config.lr_warmup_steps,
        end=config.lr_end,
        power=config.lr_power,
        cycles=config.lr_num_cycles,
    )
    return OptimizerPlan(
        name=name,
        options=config.optimizer_options,
        peak_rate=peak,
        rate=rate,
        max_grad_norm=config.max_grad_norm,
        clip_method=config.grad_clip_method,
        gradients=config.gradient_precision,
        average=_average(config),
    )


def scaled_rate(config: Config, batch: int, processes: int = 1) -> Decision[float]:
    """The schedule's peak. The noise of a mean over n images falls with its root: hence the two
    rules of scaling."""
    rate = config.learning_rate
    if not config.lr_scale:
        return as_set(config, "learning_rate", rate, "the default")
    images = batch * config.gradient_accumulation_steps * processes
    factor = images**0.5 if config.lr_scale_sqrt else images
    root = "the square root of " if config.lr_scale_sqrt else ""
    why = f"{rate:g} x {root}{images} images a step"
    return Decision(rate * factor, following(config.source("lr_scale")), why)


def _average(c: Config) -> AveragePlan | None:
    if not c.use_ema:
        return None
    return AveragePlan(c.ema_decay, c.ema_warmup_steps, c.ema_update_interval, c.ema_device)
