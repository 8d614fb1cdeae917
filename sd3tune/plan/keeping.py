"""The plan of checkpoints and validation pictures."""

from dataclasses import dataclass
from typing import Literal

from sd3tune.config.config import Config
from sd3tune.errors import ConfigError
from sd3tune.plan.length import DataPlan
from sd3tune.sd3.variants import Model


@dataclass(frozen=True)
class CheckpointPlan:
    """When a checkpoint is written, how many are kept, and where a run begins."""

    every_steps: int
    every_epochs: int | None  # beside those by steps
    rolling_steps: int  # between checkpoints that are kept for a short while; 0: none
    keep: int
    keep_rolling: int
    resume: str  # `latest`, `never`, or a checkpoint's path or name


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: an extra pass without some blocks, and moving away from it."""

    blocks: tuple[int, ...]
    scale: float
    start: float  # share of the sampling steps before it begins
    stop: float  # share after which it ends


@dataclass(frozen=True)
class PicturePlan:
    """Which pictures are drawn, when, and how."""

    sizes: tuple[tuple[int, int], ...]  # width, height in pixels; every prompt in each
    per_prompt: int  # pictures per prompt and size
    every_steps: int  # 0: only at the end
    sampling_steps: int
    guidance: float
    negative_prompt: str
    seed: int
    shift: float | None  # None: by the number of tokens
    weights: Literal["none", "ema_only", "comparison"]  # the last, their average, both
    skip: SkipLayers | None


def checkpoint_plan(c: Config) -> CheckpointPlan:
    """The settings of checkpoints, which need no decision."""
    return CheckpointPlan(
        every_steps=c.checkpoint_step_interval,
        every_epochs=c.checkpoint_epoch_interval,
        rolling_steps=c.checkpointing_rolling_steps,
        keep=c.checkpoints_total_limit,
        keep_rolling=c.checkpoints_rolling_total_limit,
        resume=c.resume_from_checkpoint,
    )


def picture_plan(c: Config, data: DataPlan) -> PicturePlan:
    """The settings of pictures. Without validation_resolution, one square of the training
    resolution."""
    return PicturePlan(
        sizes=c.validation_resolution or ((data.square, data.square),),
        per_prompt=c.num_validation_images,
        every_steps=c.validation_step_interval or 0,
        sampling_steps=c.validation_num_inference_steps,
        guidance=c.validation_guidance,
        negative_prompt=c.validation_negative_prompt,
        seed=c.seed if c.validation_seed is None else c.validation_seed,
        shift=None if c.flow_schedule_auto_shift else c.flow_schedule_shift,
        weights=c.ema_validation,
        skip=_skip(c),
    )


def refuse_impossible_pictures(config: Config, model: Model) -> None:
    """Raises ConfigError for settings of validation pictures that would fail after hours of
    training."""
    blocks = model.transformer.layers
    beyond = [n for n in config.validation_guidance_skip_layers or () if n >= blocks]
    if beyond:
        raise ConfigError(
            f"`validation_guidance_skip_layers`: block {beyond[0]} does not exist, {model.name} "
            f"has {blocks}",
            hint=f"use numbers from 0 to {blocks - 1}",
        )
    longest = model.transformer.longest_side
    for width, height in config.validation_resolution:
        if max(width, height) > longest:
            raise ConfigError(
                f"`validation_resolution`: {width}x{height} is beyond the positions of "
                f"{model.name}",
                hint=f"no side may be longer than {longest} pixels",
            )


def _skip(c: Config) -> SkipLayers | None:
    if not c.validation_guidance_skip_layers:
        return None
    return SkipLayers(
        blocks=c.validation_guidance_skip_layers,
        scale=c.validation_guidance_skip_scale,
        start=c.validation_guidance_skip_layers_start,
        stop=c.validation_guidance_skip_layers_stop,
    )
