"""Attention that keeps no scores: a slice of queries at a time, computed again for the gradient.

For devices whose fused kernel has no backward. The same sums as the definition, in float32 whatever
the inputs are; what is alive at once are two matrices of a slice. No product here has a transposed
view for a factor: some devices read those wrongly (options.VIEWS_ON_MPS).

Untested on hardware: compared with PyTorch's attention in float64 on the CPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sd3tune.backends.decide.limits import SLICE_VALUES


def attention(q: Tensor, k: Tensor, v: Tensor, most: int = SLICE_VALUES) -> Tensor:
    """(B, heads, tokens, head_dim) each. most: scores alive in one matrix."""
    inputs = (q.contiguous(), k.contiguous(), v.contiguous())
    out: Tensor = _Sliced.apply(*inputs, most)  # type: ignore[no-untyped-call]
    return out


@torch.library.custom_op("sd3tune::sliced_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, most: int) -> Tensor:
    """An operator of its own, so that its output can be kept when a block is recomputed
    (sd3/kept_attention.py)."""
    out = torch.empty_like(q)
    with torch.autocast(q.device.type, enabled=False):
        keys, values = _turned(_wide(k)), _wide(v)
        for rows in _slices(q, k, most):
            out[:, :, rows] = _weights(q[:, :, rows], keys) @ values
    return out


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, most: int) -> Tensor:
    return torch.empty_like(q)


SLICED_OPERATOR = torch.ops.sd3tune.sliced_attention.default


class _Sliced(torch.autograd.Function):
    """softmax(q k' / sqrt(d)) v"""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, most: int) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.most = most
        out: Tensor = _forward(q, k, v, most)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With the weights P of a slice and the gradient dO of its output: dV = P' dO,
        dS = P (dP - rowsum(dO O)) where dP = dO V', dQ = dS K and dK = dS' Q."""
        (gradient,) = gradients
        q, k, v = ctx.saved_tensors
        dq = torch.empty_like(q)
        with torch.autocast(q.device.type, enabled=False):
            wide_k, wide_v = _wide(k), _wide(v)
            keys, values = _turned(wide_k), _turned(wide_v)
            dk, dv = torch.zeros_like(keys), torch.zeros_like(values)  # turned as well
            for rows in _slices(q, k, ctx.most):
                some, do = _wide(q[:, :, rows]), _wide(gradient[:, :, rows])
                weights = _weights(some, keys)
                dv += _turned(do) @ weights
                inner = (do * (weights @ wide_v)).sum(-1, keepdim=True)
                ds = (do @ values).sub_(inner).mul_(weights).mul_(q.shape[-1] ** -0.5)
                del weights
                dq[:, :, rows] = ds @ wide_k
                dk += _turned(some) @ ds
                del ds  # before the next slice has its own
        return dq, _turned(dk).to(k.dtype), _turned(dv).to(v.dtype), None


def _weights(q: Tensor, keys: Tensor) -> Tensor:
    return torch.softmax((_wide(q) * q.shape[-1] ** -0.5) @ keys, dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def _turned(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous()


def _slices(q: Tensor, k: Tensor, most: int) -> Iterator[slice]:
    batch, heads, tokens, _ = q.shape
    rows = max(1, most // (batch * heads * k.shape[2]))
    return (slice(first, first + rows) for first in range(0, tokens, rows))
