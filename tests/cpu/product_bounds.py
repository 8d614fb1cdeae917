"""Bounds of products in 8 bits, derived on paper, which hold for every input.

Let a value v be rounded with an error of at most r(v): for integers half a step, scale / 2; for
e4m3, 1/16 of the value (half of its last of three bits), or half of the smallest step near zero.
Then a product differs by at most

    forward    |y^ - y|  <=  |x| r(W)^T + r(x) (|W| + r(W))^T
    backward   |gx^ - gx|  <=  |g| r(W) + r(g s) (|W| + r(W)) / s       s: the scales of W's rows

element by element, where the scales are the largest value of a row over the largest code.
"""

import pytest
import torch
from torch import Tensor

from sd3tune.backends.kernels.eight_bits import rounded
from sd3tune.quant.w8a8 import W8A8Linear

FORMATS = (torch.int8, torch.float8_e4m3fn, torch.float8_e4m3fnuz)
LARGEST_CODE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e4m3fnuz: 240.0}
# Half of the distance between zero and the smallest number: 2^-9, and 2^-10 with one more exponent.
HALF_STEP = {torch.float8_e4m3fn: 2.0**-10, torch.float8_e4m3fnuz: 2.0**-11}
FLOAT32 = 1e-5  # of the sums of magnitudes: rounding of the sums themselves
each_format = pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: str(d).rpartition(".")[2])


def scales(x: Tensor, dtype: torch.dtype) -> Tensor:
    largest = x.double().abs().amax(-1, keepdim=True) / LARGEST_CODE[dtype]
    return largest.clamp(min=2.0**-126)  # rows of zeros


def rounding(x: Tensor, dtype: torch.dtype) -> Tensor:
    """r(x), with a scale for each row."""
    scale = scales(x, dtype)
    if dtype == torch.int8:
        return (scale / 2).expand(x.shape)
    return torch.maximum(x.double().abs() / 16, scale * HALF_STEP[dtype])


def forward_bound(x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    r, a = rounding(w, dtype), w.double().abs()
    exact = x.double().abs() @ a.t()
    return x.double().abs() @ r.t() + rounding(x, dtype) @ (a + r).t() + FLOAT32 * exact


def backward_bound(g: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    r, a, s = rounding(w, dtype), w.double().abs(), scales(w, dtype)
    exact = g.double().abs() @ a
    ours = rounding(g.double() * s.t(), dtype) @ ((a + r) / s)
    return g.double().abs() @ r + ours + FLOAT32 * exact


def dice(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(seed: int, rows: int, columns: int) -> Tensor:
    """Rows of magnitudes from 1/30 to 30, and some large columns: a wrong scale shows."""
    size = torch.logspace(-1.5, 1.5, rows)[torch.randperm(rows, generator=_generator(seed))]
    x = dice(seed, rows, columns) * size[:, None]
    x[:, ::17] *= 8
    return x


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(w: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> W8A8Linear:
    return W8A8Linear(rounded(w, dtype), torch.zeros(w.shape[1]), bias, torch.float32)
