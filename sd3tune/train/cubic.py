"""A smooth distribution of noise levels from a handful of weights.

n weights say how the draws are shared among n equal parts of [0, 1]; the quantile function is the
monotone cubic through the parts' borders (Fritsch and Butland 1984, "PCHIP"), so that each part
gets exactly its share and nothing jumps in between.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def quantile(u: Tensor, weights: Sequence[float]) -> Tensor:
    """Noise levels (B,) float32 from uniform `u` in (0, 1). weights: above 0, at least two."""
    w = torch.tensor(weights, dtype=torch.float64)
    x = torch.cat([torch.zeros(1, dtype=torch.float64), (w / w.sum()).cumsum(0)])
    x[-1] = 1
    y = torch.linspace(0, 1, len(weights) + 1, dtype=torch.float64)
    return _hermite(u.double(), x, y, _slopes(x, y)).float()


def _slopes(x: Tensor, y: Tensor) -> Tensor:
    """Derivatives at the nodes: the weighted harmonic mean of the neighbouring differences, which
    keeps the curve monotone; at the ends the three-point formula, held to the same sign."""
    h, d = x.diff(), y.diff() / x.diff()
    left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inner = (left + right) / (left / d[:-1] + right / d[1:])
    return torch.cat([_end(h[0], h[1], d[0], d[1]), inner, _end(h[-1], h[-2], d[-1], d[-2])])


def _end(h0: Tensor, h1: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """One-sided derivative at an end; d0, d1 > 0, so only two of the usual cases can happen."""
    slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    return slope.clamp(min=0).reshape(1)


def _hermite(u: Tensor, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
    i = (torch.searchsorted(x, u, right=True) - 1).clamp(0, len(x) - 2)
    h = x[i + 1] - x[i]
    t = (u - x[i]) / h
    return (
        (1 + 2 * t) * (1 - t) ** 2 * y[i]
        + t * (1 - t) ** 2 * h * m[i]
        + t**2 * (3 - 2 * t) * y[i + 1]
        + t**2 * (t - 1) * h * m[i + 1]
    )
