"""One picture of what the model has learned: a plain diffusers call, so that anyone can repeat it.

No trick is applied that StableDiffusion3Pipeline does not have, with one exception, which is
Stability's own: skip-layer guidance also works without classifier-free guidance
(sample/skipping.py). The text encoders are gone by now: prompts arrive as embeddings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd3tune import modulations
from sd3tune.modulations import Call
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.sample import schedulers
from sd3tune.sample.skipping import skipping
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3.condition import autocast

Embeds = tuple[Tensor, Tensor]  # (1, tokens, width) and (1, pooled width)
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


@dataclass(frozen=True)
class Picture:
    """One picture to draw."""

    shortname: str
    prompt: str
    embeds: Embeds
    size: tuple[int, int]  # width, height in pixels
    index: int = 0  # of the pictures of one prompt and size
    seed: int = 0  # of its noise


@dataclass(frozen=True)
class Sampling:
    """How every picture of a run or command is drawn."""

    steps: int
    guidance: float
    shift: float | None  # None: by the number of tokens
    skip: SkipLayers | None
    negative_prompt: str
    negative: Embeds
    autocast: torch.dtype | None
    sampler: str = schedulers.DEFAULT


@dataclass(frozen=True)
class SamplingStep:
    """A picture on the way."""

    number: int  # from 1
    total: int
    timestep: float  # at which the step began, 1000 to 0
    latents: Tensor  # (1, 16, H/8, W/8) after the step, on the device
    noise: float  # share of noise that is left in them, 1 to 0


OnStep = Callable[[SamplingStep], None]


def pipeline(
    transformer: Any, vae: Any, shift: float | None, sampler: str = schedulers.DEFAULT
) -> Any:
    """diffusers' pipeline without text encoders. vae None: latents only."""
    from diffusers import StableDiffusion3Pipeline

    nothing: Mapping[str, None] = dict.fromkeys((*ENCODERS, *TOKENIZERS))
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=schedulers.scheduler(sampler, shift),
        **nothing,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_picture(pipe: Any, picture: Picture, how: Sampling, on_step: OnStep | None = None) -> Any:
    """One PIL image. on_step: called after each sampling step, with the latents as they are."""
    return decoded(pipe.vae, draw_latents(pipe, picture, how, on_step))


def draw_latents(
    pipe: Any, picture: Picture, how: Sampling, on_step: OnStep | None = None
) -> Tensor:
    """Latents (1, 16, H/8, W/8) of one picture, on the device. The noise is drawn on the CPU: the
    same on every vendor."""
    transformer = pipe.transformer
    target = {"device": transformer.device, "dtype": transformer.dtype}
    width, height = picture.size
    with (
        autocast(transformer.device, how.autocast),
        skipping(pipe, how.skip, how.steps, alone=how.guidance <= 1),
        modulations.foreseeing(transformer, partial(_following, pipe)),
    ):
        latents: Tensor = pipe(
            prompt_embeds=picture.embeds[0].to(**target),
            pooled_prompt_embeds=picture.embeds[1].to(**target),
            negative_prompt_embeds=how.negative[0].to(**target),
            negative_pooled_prompt_embeds=how.negative[1].to(**target),
            width=width,
            height=height,
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            generator=torch.Generator().manual_seed(picture.seed),
            output_type="latent",
            callback_on_step_end=None if on_step is None else _reporting(on_step),
            mu=schedulers.dynamic_shift(how.sampler, how.shift, picture.size),
            **_skip_arguments(how),
        ).images
    return latents


def decoded(vae: Any, latents: Tensor) -> Any:
    """One PIL image of latents (1, 16, H/8, W/8), rounded as the pipeline rounds it."""
    from diffusers.image_processor import VaeImageProcessor

    pixels = sd3_latents.decode(vae, latents)
    return VaeImageProcessor().postprocess(pixels, output_type="pil")[0]


def _following(pipe: Any, timestep: Tensor, pooled: Tensor) -> Sequence[Call]:
    """What the transformer is asked in the sampling steps after this one."""
    coming = pipe.scheduler.timesteps[(pipe.scheduler.step_index or 0) + 1 :]
    return [Call(t.expand(len(timestep)), pooled) for t in coming]


def _reporting(on_step: OnStep) -> Callable[..., dict[str, Tensor]]:
    """diffusers' callback: it may replace the latents, and ours does not."""

    def report(pipe: Any, i: int, timestep: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
        total, noise = pipe.num_timesteps, float(pipe.scheduler.sigmas[i + 1])
        on_step(SamplingStep(i + 1, total, float(timestep), held["latents"], noise))
        return {}

    return report


def _skip_arguments(how: Sampling) -> dict[str, Any]:
    """diffusers' arguments of skip-layer guidance, which it ignores where guidance is 1 or less."""
    if how.skip is None or how.guidance <= 1:
        return {}
    return {
        "skip_guidance_layers": list(how.skip.blocks),
        "skip_layer_guidance_scale": how.skip.scale,
        "skip_layer_guidance_start": how.skip.start,
        "skip_layer_guidance_stop": how.skip.stop,
    }
