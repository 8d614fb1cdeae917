"""One picture of what the model has learned: a plain diffusers call, so that anyone can repeat it.

No trick is applied that StableDiffusion3Pipeline does not have. The text encoders are gone by now:
prompts arrive as cached embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.plan.picture_plan import PicturePlan, SkipLayers
from sd3tune.sd3 import latents as sd3_latents
from sd3tune.sd3.condition import autocast

Embeds = tuple[Tensor, Tensor]  # (1, tokens, width) and (1, pooled width)


@dataclass(frozen=True)
class Picture:
    """One picture to draw."""

    shortname: str
    prompt: str
    embeds: Embeds
    size: tuple[int, int]  # width, height in pixels
    index: int = 0  # of the pictures of one prompt and size; added to the seed


@dataclass(frozen=True)
class Sampling:
    """How every picture of a run is drawn."""

    plan: PicturePlan
    negative: Embeds
    autocast: torch.dtype | None


@dataclass(frozen=True)
class SamplingStep:
    """A picture on the way."""

    number: int  # from 1
    total: int
    timestep: float  # at which the step began, 1000 to 0
    latents: Tensor  # (1, 16, H/8, W/8) after the step, on the device
    noise: float  # share of noise that is left in them, 1 to 0


OnStep = Callable[[SamplingStep], None]


def scheduler(shift: float | None) -> Any:
    """The schedule training used: one shift for all, or diffusers' dynamic one."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if shift is not None:
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def pipeline(transformer: Any, vae: Any, shift: float | None) -> Any:
    """diffusers' pipeline without text encoders."""
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=scheduler(shift),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_picture(pipe: Any, picture: Picture, how: Sampling, on_step: OnStep | None = None) -> Any:
    """One PIL image. The noise is drawn on the CPU: the same on every vendor. on_step: is called
    after each sampling step."""
    target = {"device": pipe.transformer.device, "dtype": pipe.transformer.dtype}
    width, height = picture.size
    with autocast(pipe.transformer.device, how.autocast):
        latents = pipe(
            prompt_embeds=picture.embeds[0].to(**target),
            pooled_prompt_embeds=picture.embeds[1].to(**target),
            negative_prompt_embeds=how.negative[0].to(**target),
            negative_pooled_prompt_embeds=how.negative[1].to(**target),
            width=width,
            height=height,
            num_inference_steps=how.plan.sampling_steps,
            guidance_scale=how.plan.guidance,
            generator=torch.Generator().manual_seed(how.plan.seed + picture.index),
            output_type="latent",
            callback_on_step_end=None if on_step is None else _reporting(on_step),
            **_skipping(how.plan.skip),
        ).images
    pixels = sd3_latents.decode(pipe.vae, latents)
    return pipe.image_processor.postprocess(pixels, output_type="pil")[0]


def _reporting(on_step: OnStep) -> Callable[..., dict[str, Any]]:
    """diffusers' callback; {}: it changes nothing."""

    def report(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        noise, total = float(pipe.scheduler.sigmas[index + 1]), len(pipe.scheduler.timesteps)
        latents = tensors["latents"]
        on_step(SamplingStep(index + 1, total, float(timestep), latents, noise))
        return {}

    return report


def _skipping(skip: SkipLayers | None) -> dict[str, Any]:
    """diffusers' arguments of skip-layer guidance."""
    if skip is None:
        return {}
    return {
        "skip_guidance_layers": list(skip.blocks),
        "skip_layer_guidance_scale": skip.scale,
        "skip_layer_guidance_start": skip.start,
        "skip_layer_guidance_stop": skip.stop,
    }
