"""The recipe of a picture, from its plan: everything that decided it, as `sd3tune reproduce` and
A1111's readers take it (formats/picture_recipe.py)."""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from sd3tune import __version__
from sd3tune.formats.picture_recipe import AdapterUsed, PictureRecipe, PrecisionUsed, TextUsed
from sd3tune.plan.drawing import AnyPlan
from sd3tune.sample.pipeline import Picture, Sampling
from sd3tune.sd3 import weight_identity
from sd3tune.sd3.variants import ModelSource

LIBRARIES = ("torch", "diffusers", "transformers")
WHOLE = "as-training"  # attention of passes without gradients that is that of training


def recipe(
    picture: Picture,
    how: Sampling,
    plan: AnyPlan,
    *,
    base: str,
    title: str | None,
    adapters: Sequence[AdapterUsed] = (),
    step: int | None = None,
    version: str = "last",
    weights_only: tuple[str, ...] | None = None,
) -> PictureRecipe:
    """Of one picture. base: the model as the user named it, of a folder its name alone. title: of
    the adapter. step: of training. version: `base`, `last` or `ema` weights. weights_only: as
    product_errors.weights_only_layers has them."""
    skip, source = how.skip, plan.model.source
    return PictureRecipe(
        prompt=picture.prompt,
        negative_prompt=how.negative_prompt,
        seed=picture.seed,
        width=picture.size[0],
        height=picture.size[1],
        sampler=how.sampler,
        steps=how.steps,
        guidance_scale=how.guidance,
        shift=how.shift,
        skip_guidance_layers=None if skip is None else skip.blocks,
        skip_layer_guidance_scale=None if skip is None else skip.scale,
        skip_layer_guidance_start=None if skip is None else skip.start,
        skip_layer_guidance_stop=None if skip is None else skip.stop,
        model=plan.model.name,
        model_source=base,
        revision=plan.files.revision,
        variant=plan.files.variant,
        model_identity=_identity(source),
        adapter=title,
        adapters=tuple(adapters),
        training_step=step,
        weights=version,
        precision=_precision(plan, weights_only),
        text=_text(plan),
        device=plan.facts.vendor,
        device_name=plan.hardware.device.name,
        threads=None if plan.facts.accelerated else torch.get_num_threads(),
        version=__version__,
        versions={name: metadata.version(name) for name in LIBRARIES},
    )


def _precision(plan: AnyPlan, weights_only: tuple[str, ...] | None) -> PrecisionUsed:
    own, attention = plan.precision, plan.attention
    kernel = attention.sampling.value
    clip_l, clip_g, t5 = (d.value for d in own.text_encoders)
    return PrecisionUsed(
        mixed_precision=own.autocast.value or "no",
        base_model_default_dtype=own.base.value,
        base_model_precision=own.transformer.value,
        text_encoder_dtype=own.text.value,
        text_encoder_precisions=(clip_l, clip_g, t5),
        vae_dtype=own.vae.value,
        attention=attention.training.value if kernel == WHOLE else kernel,
        weights_only_layers=weights_only,
    )


def _text(plan: AnyPlan) -> TextUsed:
    captions = plan.captions
    return TextUsed(
        tokenizer_max_length=captions.t5_tokens,
        t5_padding=captions.t5_padding,
        sd3_clip_uncond_behaviour=captions.blank_clip,
        sd3_t5_uncond_behaviour=captions.blank_t5,
    )


@cache
def _identity(source: ModelSource) -> str | None:
    """None where it is not on this disk."""
    here = Path(source.transformer).exists()
    return weight_identity.identity(source, "transformer") if here else None
