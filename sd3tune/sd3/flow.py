"""Rectified flow as Stable Diffusion 3 uses it (Esser et al. 2024, arXiv:2403.03206).

    z_s = (1 - s) x0 + s eps          the straight path from image to noise        (eq. 13)
    v   = dz/ds = eps - x0            what the network predicts
    L   = E || v(z_s, 1000 s) - (eps - x0) ||^2        plain, the emphasis lies in how s is drawn

x0 clean latent, eps unit noise, s in [0, 1] noise level (the paper's t, diffusers' sigma). Always
float32: bfloat16 has 8 significant bits and would fold the 1000 noise levels into about 500.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.sd3.distances import Distance, l2

Model = Callable[[Tensor, Tensor, Any], Tensor]  # v = model(z, timestep, condition)
PerImage = Callable[[Tensor], Tensor]  # of the prediction v, (B, 16, H/8, W/8) -> (B,)

TIMESTEPS = 1000  # the network was trained with s scaled to 0..1000
TINY = 1e-12


def logit_normal(u: Tensor, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Noise levels (B,) with logit(s) ~ N(scale offset, scale^2) (sec. 3.1), from uniform `u` in
    (0, 1). offset above 0: more noise (arXiv:2603.10785)."""
    return torch.sigmoid(scale * (torch.special.ndtri(u.double()) + offset)).float()


def shifted(s: Tensor, shift: float | Tensor) -> Tensor:
    """Noise levels moved toward noise: s' = shift s / (1 + (shift - 1) s) (eq. 23)."""
    return shift * s / (1 + (shift - 1) * s)


def auto_shift(tokens: int) -> float:
    """The shift for an image of so many tokens, exp(mu), mu linear through (256, 0.5) and
    (4096, 1.15): what diffusers' pipeline uses with dynamic shifting. Shared by training and
    sampling."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return math.exp(0.5 + slope * (tokens - 256))


def add_noise(x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    """z_s (B, C, H, W), the point of the straight path at levels s (B,) (eq. 13)."""
    s = s.view(-1, 1, 1, 1)
    return (1 - s) * x0 + s * eps


def mean(each: Tensor, weight: Tensor | None, share: bool) -> Tensor:
    """One number per image (B,) of the loss of each latent (B, C, H, W), weighed by
    (B, 1, H, W). share: divided by the sum of the weights instead of the number of latents, so
    that an image with little mask counts like any other; without any weight it is 0."""
    if weight is None:
        return each.mean(dim=(1, 2, 3))
    weighed = each * weight
    if not share:
        return weighed.mean(dim=(1, 2, 3))
    sums = weight.expand_as(each).sum(dim=(1, 2, 3)).clamp(min=TINY)
    return weighed.sum(dim=(1, 2, 3)) / sums


@dataclass(frozen=True)
class Terms:
    """What a run adds to the paper's loss. The defaults add nothing."""

    z: Tensor | None = None  # (B, 16, H/8, W/8): the network's input instead of the path's point
    distance: Distance = l2  # loss of each latent, computed from its error
    emphasis: Tensor | None = None  # (B, 16, H/8, W/8): factor of each latent's loss
    weight: Tensor | None = None  # (B, 1, H/8, W/8): mask, as `mean` takes it
    share: bool = False  # divide by the mask's sum, as `mean` takes it
    drift: PerImage | None = None  # extra loss per image, computed from the prediction v and added
    teacher: Model | None = None  # its prediction is the target instead of eps - x0


def loss(
    model: Model, x0: Tensor, condition: Any, eps: Tensor, s: Tensor, terms: Terms | None = None
) -> Tensor:
    """One loss per image (B,). x0 and eps (B, 16, H/8, W/8) float32, s (B,) float32."""
    terms = terms or Terms()
    z, t = add_noise(x0, eps, s) if terms.z is None else terms.z, s * TIMESTEPS
    target = eps - x0
    if terms.teacher is not None:
        with torch.no_grad():
            target = terms.teacher(z, t, condition).float()
    v = model(z, t, condition).float()
    each = terms.distance(v - target)
    if terms.emphasis is not None:
        each = each * terms.emphasis
    per_image = mean(each, terms.weight, terms.share)
    return per_image if terms.drift is None else per_image + terms.drift(v)
