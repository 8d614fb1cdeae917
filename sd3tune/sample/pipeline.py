"""Pictures of what the model has learned: a plain diffusers call, so that anyone can repeat it.

No trick is applied that StableDiffusion3Pipeline does not have. The text encoders are gone by now:
prompts arrive as cached embeddings.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd3tune.filesystem import drafts
from sd3tune.sd3.attention import sampling


@dataclass(frozen=True)
class Wish:
    """One picture to make."""

    shortname: str
    embeds: Tensor  # (1, tokens, width)
    pooled: Tensor  # (1, pooled width)
    size: tuple[int, int]  # width, height in pixels
    index: int = 0


@dataclass(frozen=True)
class Sampling:
    """How pictures are made."""

    steps: int
    guidance: float
    negative: tuple[Tensor, Tensor]
    seed: int
    attention: str
    autocast: torch.dtype | None = None
    shift: float | None = 3.0  # None: dynamic, by the number of tokens
    skip_layers: tuple[int, ...] | None = None
    skip_scale: float = 2.8
    skip_start: float = 0.01
    skip_stop: float = 0.2


def scheduler(shift: float | None) -> Any:
    """The schedule training used: one shift for all, or diffusers' dynamic one."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if shift is not None:
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def draw(
    transformer: Any,
    vae: Any,
    wishes: Sequence[Wish],
    how: Sampling,
    folder: Path | None,
    step: int,
    done: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Writes `step_<n>_<shortname>_<index>_<W>x<H>.png` for every wish; the same seed for each.
    folder: None draws and writes nothing, where weights are split over processes."""
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=scheduler(how.shift),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    training = transformer.training
    transformer.eval()  # no dropout
    written = []
    with torch.no_grad(), sampling(transformer, how.attention):
        for wish in wishes:
            drawn = picture(pipe, vae, wish, how)
            if folder is not None:
                name = (step, wish.shortname, wish.index, *wish.size)
                written.append(folder / "step_{}_{}_{}_{}x{}.png".format(*name))
                keep(drawn, written[-1])
            done()
    transformer.train(training)
    return written


def keep(drawn: Any, path: Path) -> None:
    """As PNG; through no link. Raises OSError."""
    whole = BytesIO()
    drawn.save(whole, "PNG")
    drafts.write(path, whole.getbuffer())


def picture(pipe: Any, vae: Any, wish: Wish, how: Sampling) -> Any:
    """One PIL image. The noise is drawn on the CPU: the same on every vendor."""
    place = {"device": pipe.transformer.device, "dtype": pipe.transformer.dtype}
    width, height = wish.size
    extra = {}
    if how.skip_layers:
        extra = {
            "skip_guidance_layers": list(how.skip_layers),
            "skip_layer_guidance_scale": how.skip_scale,
            "skip_layer_guidance_start": how.skip_start,
            "skip_layer_guidance_stop": how.skip_stop,
        }
    with autocast(pipe.transformer, how):
        latents = pipe(
            prompt_embeds=wish.embeds.to(**place),
            pooled_prompt_embeds=wish.pooled.to(**place),
            negative_prompt_embeds=how.negative[0].to(**place),
            negative_pooled_prompt_embeds=how.negative[1].to(**place),
            width=width,
            height=height,
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            generator=torch.Generator().manual_seed(how.seed + wish.index),
            output_type="latent",
            **extra,
        ).images
    z = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return pipe.image_processor.postprocess(vae.decode(z).sample.float(), output_type="pil")[0]


def autocast(transformer: Any, how: Sampling) -> AbstractContextManager[None]:
    if how.autocast is None:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(transformer.device.type, how.autocast)
    return context
