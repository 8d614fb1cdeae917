"""Rectified flow as Stable Diffusion 3 uses it (Esser et al. 2024, arXiv:2403.03206).

    z_s = (1 - s) x0 + s eps          the straight path from image to noise        (eq. 13)
    v   = dz/ds = eps - x0            what the network is asked for
    L   = E || v(z_s, 1000 s) - (eps - x0) ||^2        plain, the emphasis lies in how s is drawn

x0 clean latent, eps unit noise, s in [0, 1] noise level (the paper's t, diffusers' sigma). Always
float32: bfloat16 has 8 significant bits and would fold the 1000 noise levels into about 500.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor, Any], Tensor]  # v = model(z, timestep, condition)
Change = Callable[[Tensor], Tensor]

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
    s = s.view(-1, 1, 1, 1)
    return (1 - s) * x0 + s * eps


def l2(d: Tensor) -> Tensor:
    return d.square()


def huber_width(s: Tensor, c: float, schedule: str) -> Tensor:
    """Where the pseudo-Huber losses turn from square to straight, for each level (B,).

    `constant`: c. `exponential` (arXiv:2403.16728, with t = 1000 s): exp(t ln(c) / 1000) = c^s,
    from 1 without noise to c in noise. `snr`: (1 - c) / (1 + r)^2 + c with
    r = sqrt((1 - s) / (s + 1e-4)), from c without noise to 1 in noise.
    """
    if schedule == "exponential":
        return c**s
    if schedule == "snr":
        r = ((1 - s) / (s + 1e-4)).sqrt()
        return (1 - c) / (1 + r).square() + c
    return torch.full_like(s, c)


def huber(d: Tensor, c: Tensor) -> Tensor:
    """2 c (sqrt(d^2 + c^2) - c), which is d^2 for small d and 2 c |d| for large. d (B, C, H, W),
    c (B,)."""
    return 2 * c.view(-1, 1, 1, 1) * _bend(d, c)


def smooth_l1(d: Tensor, c: Tensor) -> Tensor:
    """2 (sqrt(d^2 + c^2) - c), which is d^2 / c for small d and 2 |d| for large."""
    return 2 * _bend(d, c)


def _bend(d: Tensor, c: Tensor) -> Tensor:
    """sqrt(d^2 + c^2) - c. The difference itself would lose all of a small d in float32."""
    c = c.view(-1, 1, 1, 1)
    square = d.square()
    return square / ((square + c.square()).sqrt() + c)


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


def loss(
    model: Model,
    x0: Tensor,
    condition: Any,
    eps: Tensor,
    s: Tensor,
    *,
    z: Tensor | None = None,
    distance: Change = l2,
    emphasis: Tensor | None = None,
    weight: Tensor | None = None,
    share: bool = False,
    drift: Change | None = None,
    teacher: Model | None = None,
) -> Tensor:
    """One loss per image (B,).

    x0, eps (B, 16, H/8, W/8) float32; s (B,) float32. z: what the network is shown instead of the
    point of the path at s. distance: of each latent's error. emphasis (B, 16, H/8, W/8): factor of
    each latent's loss. weight (B, 1, H/8, W/8), share: as `mean` takes them. drift: of the answer,
    a loss per image that is added. teacher: another model whose answer is the target instead of
    eps - x0.
    """
    z, t = add_noise(x0, eps, s) if z is None else z, s * TIMESTEPS
    target = eps - x0
    if teacher is not None:
        with torch.no_grad():
            target = teacher(z, t, condition).float()
    v = model(z, t, condition).float()
    each = distance(v - target)
    found = mean(each if emphasis is None else each * emphasis, weight, share)
    return found if drift is None else found + drift(v)
