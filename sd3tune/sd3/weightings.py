"""How much the loss of an image counts at its noise level: factors (B,) of levels s (B,).

The network predicts v = eps - x0, and z_s = x0 + s v, so an error d of v is an error -s d of the
clean image x0: other trainers that measure that error multiply the squared error of v by s².
sigma_sqrt and cosmap are those of the paper (arXiv:2403.03206, section 3.1) as diffusers has them.
"""

import math

import torch
from torch import Tensor


def one(s: Tensor) -> Tensor:
    """1 everywhere."""
    return torch.ones_like(s)


def x0(s: Tensor) -> Tensor:
    """s²: the squared error of the clean image."""
    return s.square()


def sigma_sqrt(s: Tensor) -> Tensor:
    """1 / s², finite at s = 0."""
    return s.clamp(min=1e-3).square().reciprocal()


def cosmap(s: Tensor) -> Tensor:
    """2 / (pi (1 - 2 s + 2 s²))."""
    return 2 / (math.pi * (1 - 2 * s + 2 * s.square()))


def x0_cosmap(s: Tensor) -> Tensor:
    """The product of x0 and cosmap."""
    return x0(s) * cosmap(s)
