"""The options of a drawing command, joined with what the run and the model say: what to draw, and
how. Refuses what cannot be drawn before anything is loaded; all problems at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sd3tune.config import values
from sd3tune.decision import AUTO, Decision, Provenance
from sd3tune.drawing.drawing_sources import Sources
from sd3tune.drawing.run_record import RecordedSettings
from sd3tune.errors import ConfigError, answers
from sd3tune.filesystem import safetensors_header
from sd3tune.plan.drawing import DrawingAsked
from sd3tune.plan.encoding import CaptionPlan
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.plan.plan import ModelFiles
from sd3tune.sd3.variants import Model

OWN = "the command line"
MOST_STEPS, MOST_GUIDANCE, MOST_SCALE, MOST_SHIFT = 1000, 100.0, 100.0, 100.0
RELEASED_SIDE, MOST_SIDE = 1024, 16_384
NO_RUN = RecordedSettings(pretrained_model_name_or_path="", output_dir=Path())


@dataclass(frozen=True)
class DrawingOptions:
    """As written; None: not given."""

    negative: str | None = None
    size: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    shift: str | None = None  # a number, or `auto`
    sampler: str | None = None
    skip_layers: str | None = None
    skip_scale: float | None = None
    skip_start: float | None = None
    skip_stop: float | None = None
    text_tokens: int | None = None
    precision: Mapping[str, str] = field(default_factory=dict)  # axis -> value


def asked_of(options: DrawingOptions, sources: Sources, model: Model) -> DrawingAsked:
    """What to draw with these sources. Raises ConfigError with all problems."""
    own = NO_RUN if sources.run is None else sources.run.settings
    checks: Sequence[Callable[[], Any]] = (
        partial(_sizes, options, own, sources, model),
        partial(_steps, options, own),
        partial(_guidance, options, own),
        partial(_shift, options, own),
        partial(_skip, options, own, model),
    )
    sizes, steps, guidance, shift, skip = answers(*checks)
    return DrawingAsked(
        model=model,
        files=_files(sources, model),
        captions=_captions(own, options.text_tokens),
        sizes=sizes,
        steps=steps,
        guidance=guidance,
        shift=shift,
        sampler=options.sampler or own.validation_noise_scheduler,
        skip=skip,
        negative_prompt=own.validation_negative_prompt
        if options.negative is None
        else options.negative,
        precision=options.precision,
        set_by=Provenance("user", OWN, None),
        quantised_cache=None if sources.run is None else sources.run.quantised_cache,
    )


def seed_of(options: DrawingOptions, sources: Sources) -> int:
    """Of the first picture of a prompt. Raises ConfigError."""
    if options.seed is not None:
        if not 0 <= options.seed < 2**63:
            raise ConfigError(f"`--seed {options.seed}` must be from 0 to 2**63 - 1", hint="use 42")
        return options.seed
    own = NO_RUN if sources.run is None else sources.run.settings
    return own.seed if own.validation_seed is None else own.validation_seed


def _files(sources: Sources, model: Model) -> ModelFiles:
    shape, request = model.transformer, sources.model
    words = f"{model.source}: {shape.layers} blocks of width {shape.hidden}; {sources.because}"
    return ModelFiles(Decision(model.name, AUTO, words), request.revision, request.variant)


def _captions(own: RecordedSettings, tokens: int | None) -> CaptionPlan:
    return CaptionPlan(
        t5_tokens=tokens or own.tokenizer_max_length,
        t5_padding=own.t5_padding,
        blank_clip=own.sd3_clip_uncond_behaviour,
        blank_t5=own.sd3_t5_uncond_behaviour,
        at_once=1,
    )


def _sizes(
    options: DrawingOptions, own: RecordedSettings, sources: Sources, model: Model
) -> tuple[tuple[int, int], ...]:
    longest = model.transformer.longest_side
    if options.size is None:
        return own.validation_resolution or (_own_size(sources, longest),)
    try:
        sizes: tuple[tuple[int, int], ...] = values.sizes(options.size)
    except ValueError as e:
        words = f"`--size {options.size}` {e}"
        raise ConfigError(words.partition("; ")[0], hint=words.partition("; ")[2]) from None
    if not sizes:
        raise ConfigError("`--size` is empty", hint="use 1024x1024")
    if beyond := next((s for s in sizes if max(s) > longest), None):
        raise ConfigError(
            f"`--size {beyond[0]}x{beyond[1]}` is beyond the positions of {model.name}",
            hint=f"no side may be longer than {longest} pixels",
        )
    return sizes


def _own_size(sources: Sources, longest: int) -> tuple[int, int]:
    """The resolution that the adapter was trained at, or 1024."""
    side = RELEASED_SIDE
    if sources.adapters:
        metadata = safetensors_header.read(sources.adapters[0].path).metadata
        try:
            side = max(values.one_size(metadata.get("modelspec.resolution", "1024x1024")))
        except ValueError:
            side = RELEASED_SIDE
    side = min(side, longest)
    return side, side


def _steps(options: DrawingOptions, own: RecordedSettings) -> int:
    steps = own.validation_num_inference_steps if options.steps is None else options.steps
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"`--steps {steps}` must be from 1 to {MOST_STEPS}", hint="use 28")
    return steps


def _guidance(options: DrawingOptions, own: RecordedSettings) -> float:
    guidance = own.validation_guidance if options.guidance is None else options.guidance
    if not 0 <= guidance <= MOST_GUIDANCE:
        raise ConfigError(
            f"`--guidance {guidance:g}` must be from 0 to {MOST_GUIDANCE:g}",
            hint="SD3.5 is drawn with 3 to 5; 1 is no guidance",
        )
    return guidance


def _shift(options: DrawingOptions, own: RecordedSettings) -> float | None:
    if options.shift is None:
        return None if own.flow_schedule_auto_shift else own.flow_schedule_shift
    if options.shift == "auto":
        shift = None
    else:
        try:
            shift = float(options.shift)
        except ValueError:
            shift = -1.0
        if not 0 < shift <= MOST_SHIFT:
            raise ConfigError(
                f"`--shift {options.shift}` must be a number above 0, at most {MOST_SHIFT:g}, or "
                "`auto`",
                hint="SD3 was trained with 3",
            )
    if (options.sampler or own.validation_noise_scheduler) == "heun" and shift is None:
        raise ConfigError(
            "the sampler `heun`: diffusers' Heun sampler has no shift by the number of tokens",
            hint="set a number for --shift, or use euler",
        )
    return shift


def _skip(options: DrawingOptions, own: RecordedSettings, model: Model) -> SkipLayers | None:
    details = {"--skip-scale": options.skip_scale, "--skip-start": options.skip_start,
               "--skip-stop": options.skip_stop}  # fmt: skip
    blocks = own.validation_guidance_skip_layers
    if options.skip_layers is not None:
        if options.skip_layers.strip() == "none":
            blocks = None
        else:
            try:
                blocks = values.layers(options.skip_layers)
            except ValueError as e:
                words = f"`--skip-layers {options.skip_layers}` {e}"
                raise ConfigError(words, hint="use 7,8,9; or `none`") from None
    if blocks is None:
        if set_ := next((name for name, v in details.items() if v is not None), None):
            raise ConfigError(
                f"`{set_}` has no effect: no layer is skipped", hint="give --skip-layers 7,8,9"
            )
        return None
    return _checked(blocks, details, own, model)


def _checked(
    blocks: tuple[int, ...],
    details: Mapping[str, float | None],
    own: RecordedSettings,
    model: Model,
) -> SkipLayers:
    layers = model.transformer.layers
    if beyond := next((n for n in blocks if n >= layers), None):
        raise ConfigError(
            f"`--skip-layers`: block {beyond} does not exist, {model.name} has {layers}",
            hint=f"use numbers from 0 to {layers - 1}",
        )
    scale, start, stop = (
        otherwise if given is None else given
        for given, otherwise in zip(
            details.values(),
            (
                own.validation_guidance_skip_scale,
                own.validation_guidance_skip_layers_start,
                own.validation_guidance_skip_layers_stop,
            ),
            strict=True,
        )
    )
    if not 0 <= scale <= MOST_SCALE:
        raise ConfigError(f"`--skip-scale {scale:g}` must be from 0 to {MOST_SCALE:g}",
                          hint="2.8 is diffusers' default")  # fmt: skip
    if not 0 <= start < stop <= 1:
        raise ConfigError(
            f"`--skip-start {start:g}` and `--skip-stop {stop:g}` leave no step",
            hint="shares of the steps from 0 to 1, such as 0.01 and 0.2",
        )
    return SkipLayers(blocks, scale, start, stop)
