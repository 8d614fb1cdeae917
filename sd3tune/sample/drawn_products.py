"""Products in 8 bits of a command that draws: measured before the first picture.

A run has a certificate (train/product_check.py), and its pictures are drawn by it. `sample`
measures the layers for itself, since its adapters and prompts may be others: three steps of the
first picture, forward alone. The choice is part of the picture's metadata; `reproduce` takes it
from there and measures nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sd3tune.plan.drawing import AnyPlan
from sd3tune.quant import product_certificate, product_errors
from sd3tune.report.progress import waiting
from sd3tune.sample.pictures import drawing
from sd3tune.sample.pipeline import Picture, Sampling, draw_latents, pipeline
from sd3tune.tables.schemes import SCHEMES

STEPS = 3  # from noise to the picture, at which the layers are measured


def certified(
    transformer: Any,
    plan: AnyPlan,
    first: Picture,
    how: Sampling,
    recorded: Sequence[str] | None,
) -> None:
    """Measures every layer that multiplies in 8 bits, and sets it by the scheme's limit. first: the
    picture that is measured. recorded: layers that multiply by their dequantised weight, where they
    are known. Raises Diverged for numbers that are not finite."""
    scheme = SCHEMES[plan.precision.transformer.value]
    layers = product_errors.layers(transformer) if scheme.multiplies else {}
    if not layers:
        return
    if recorded is not None:
        for name in layers.keys() & set(recorded):
            layers[name].weights_only = True
        return
    pipe, short = pipeline(transformer, None, how.shift, how.sampler), replace(how, steps=STEPS)
    with (
        waiting("measuring the products in 8 bits"),
        product_errors.measured(layers) as errors,
        drawing(transformer, plan.attention.sampling.value),
    ):
        draw_latents(pipe, first, replace(short, skip=None))
    product_certificate.apply(product_certificate.certificate_of(scheme, errors), layers)
