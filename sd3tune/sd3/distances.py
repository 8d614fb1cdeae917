"""How far a prediction is from its target, for each latent: squares, and two that forgive outliers.

d (B, C, H, W) is the error; all results have its shape.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]


def l2(d: Tensor) -> Tensor:
    """d^2."""
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
