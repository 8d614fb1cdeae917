"""The plan of validation pictures: which, how and when."""

from dataclasses import dataclass
from typing import Literal

from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision, following
from sd3tune.errors import ConfigError
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.length import DataPlan, as_set
from sd3tune.sd3.variants import Model, tokens

TIMES = 10  # validations of a run, where nothing says how often
SHARE = 0.2  # of the run's time that these may take
PASSES = 3  # forward passes that a training step costs: the backward pass counts twice
ROUND = (1, 2, 3, 5)  # times a power of ten: intervals that are easy to remember


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: an extra pass without some blocks, and moving away from it."""

    blocks: tuple[int, ...]
    scale: float
    start: float  # share of the sampling steps before it begins
    stop: float  # share after which it ends


@dataclass(frozen=True)
class PictureTimes:
    """When pictures are drawn, beside those of the result."""

    every_steps: Decision[int]  # 0: no interval of steps
    every_epochs: int | None
    after_step: int  # nothing is drawn before this step
    after_epoch: int  # nor before so many epochs have ended
    on_startup: bool  # before the first step too, and when a run continues
    base_model: bool  # once, of the model before any training


@dataclass(frozen=True)
class PicturePlan:
    """Which pictures are drawn, when, and how."""

    sizes: tuple[tuple[int, int], ...]  # width, height in pixels; every prompt in each
    per_prompt: int  # pictures per prompt and size
    times: PictureTimes
    sampling_steps: int
    sampler: str
    guidance: float
    negative_prompt: str
    seed: int  # picture i of a prompt and size has seed + i
    randomize: bool  # each validation draws with seeds of its own
    strength: float  # of the adapter
    shift: float | None  # None: by the number of tokens
    weights: Literal["none", "ema_only", "comparison"]  # the last, their average, both
    skip: SkipLayers | None
    format: Literal["png", "jpeg", "webp"]
    quality: int  # of jpeg and webp
    parallel: bool  # pictures are split over the processes


def picture_plan(inputs: RunInputs, data: DataPlan) -> PicturePlan:
    """The settings of pictures. Without validation_resolution, one square of the training
    resolution."""
    c = inputs.config
    return PicturePlan(
        sizes=sizes(c, data),
        per_prompt=c.num_validation_images,
        times=_times(inputs, data),
        sampling_steps=c.validation_num_inference_steps,
        sampler=c.validation_noise_scheduler,
        guidance=c.validation_guidance,
        negative_prompt=c.validation_negative_prompt,
        seed=c.seed if c.validation_seed is None else c.validation_seed,
        randomize=c.validation_randomize,
        strength=c.validation_lycoris_strength,
        shift=None if c.flow_schedule_auto_shift else c.flow_schedule_shift,
        weights=c.ema_validation,
        skip=_skip(c),
        format=c.validation_image_format,
        quality=c.validation_image_quality,
        parallel=c.validation_multigpu == "batch-parallel" and not c.fsdp_enable,
    )


def sizes(c: Config, data: DataPlan) -> tuple[tuple[int, int], ...]:
    """Width and height of the pictures, in pixels."""
    return c.validation_resolution or ((data.square, data.square),)


def _times(inputs: RunInputs, data: DataPlan) -> PictureTimes:
    c = inputs.config
    return PictureTimes(
        every_steps=_interval(inputs, data),
        every_epochs=c.validation_epoch_interval,
        after_step=c.validate_after_step,
        after_epoch=c.validate_after_epoch,
        on_startup=c.validation_on_startup,
        base_model=not c.disable_benchmark,
    )


def _interval(inputs: RunInputs, data: DataPlan) -> Decision[int]:
    """Steps between validations: the user's, or such that about TIMES take at most SHARE of the
    time."""
    c, steps = inputs.config, data.steps.value
    if not inputs.prompts:
        why = "validation_disable is true" if c.validation_disable else "no prompt is set"
        return Decision(0, AUTO, why)
    if c.validation_step_interval is not None:
        return as_set(c, "validation_step_interval", c.validation_step_interval, "")
    if c.validation_epoch_interval is not None:
        source = following(c.source("validation_epoch_interval"))
        return Decision(0, source, "validation_epoch_interval says when")
    lasts = validation_steps(inputs, data)
    times = min(TIMES, int(SHARE * steps / lasts))
    shown = f"a validation takes the time of about {max(1, round(lasts))} steps"
    if times < 1 or (interval := rounded(-(-steps // times))) >= steps:
        return Decision(0, AUTO, f"pictures at the start and the end alone: {shown}")
    return Decision(interval, AUTO, f"{(steps - 1) // interval} times on the way: {shown}")


def rounded(steps: int) -> int:
    """The next number of steps, from `steps` up, that is 1, 2, 3 or 5 times a power of ten."""
    scale = 1
    while True:
        for digit in ROUND:
            if digit * scale >= steps:
                return digit * scale
        scale *= 10


def validation_steps(inputs: RunInputs, data: DataPlan) -> float:
    """Training steps that take as long as one validation, estimated by the tokens that pass through
    the transformer; the VAE is left out."""
    c = inputs.config
    of_sizes = sum(tokens(*size) for size in sizes(c, data))
    versions = 2 if c.use_ema and c.ema_validation == "comparison" else 1
    passes = c.validation_num_inference_steps * (2 if c.validation_guidance > 1 else 1)
    together = (
        1 if c.fsdp_enable or c.validation_multigpu == "single-gpu" else inputs.processes.size
    )
    pictures = -(-inputs.prompts * c.num_validation_images // together)
    image = sum(tokens(*s.geometry.bucket) for s in inputs.samples) / len(inputs.samples)
    images = data.batch_size.value * data.accumulation.value
    return pictures * of_sizes * versions * passes / (PASSES * image * images)


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
