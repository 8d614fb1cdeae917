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

TIMESTEPS = 1000  # the network was trained with s scaled to 0..1000


def logit_normal(u: Tensor, scale: float = 1.0) -> Tensor:
    """Noise levels (B,) with logit(s) ~ N(0, scale^2) (sec. 3.1), from uniform `u` in (0, 1)."""
    return torch.sigmoid(scale * torch.special.ndtri(u.double())).float()


def shifted(s: Tensor, shift: float | Tensor) -> Tensor:
    """Noise levels moved toward noise: s' = shift s / (1 + (shift - 1) s) (eq. 23)."""
    return shift * s / (1 + (shift - 1) * s)


def auto_shift(tokens: int) -> float:
    """The shift for an image of so many tokens, exp(mu), mu linear through (256, 0.5) and
    (4096, 1.15): what diffusers' pipeline uses with dynamic shifting. Shared by training,
    evaluation and sampling."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return math.exp(0.5 + slope * (tokens - 256))


def add_noise(x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    s = s.view(-1, 1, 1, 1)
    return (1 - s) * x0 + s * eps


def loss(
    model: Model,
    x0: Tensor,
    condition: Any,
    eps: Tensor,
    s: Tensor,
    *,
    weight: Tensor | None = None,
    teacher: Model | None = None,
) -> Tensor:
    """One loss per image (B,).

    x0, eps (B, 16, H/8, W/8) float32; s (B,) float32. weight (B, 1, H/8, W/8) multiplies each
    latent's square before the mean (no division by its sum: little mask, little loss). teacher:
    another model whose answer is the target instead of eps - x0.
    """
    z, t = add_noise(x0, eps, s), s * TIMESTEPS
    target = eps - x0
    if teacher is not None:
        with torch.no_grad():
            target = teacher(z, t, condition).float()
    square = (model(z, t, condition).float() - target).square()
    return (square if weight is None else square * weight).mean(dim=(1, 2, 3))
