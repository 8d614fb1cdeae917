"""A linear layer of nf4 weights for training, with bitsandbytes' kernels. Importing this module
imports bitsandbytes.

It differs from bitsandbytes' own layer (0.50.2) in three things. Under autocast it answers in
autocast's format, as every linear layer does: bitsandbytes answers in the format of its input,
which layer norms leave in float32, so that all activations between the layers took twice the bytes.
The packed weight and its scales are saved for the backward pass where PyTorch sees it:
bitsandbytes hides them from checkpointing, and weights that visit the device stayed there. And the
unpacked weight is never saved: the backward pass unpacks again.
"""

from typing import Any

import bitsandbytes
import torch
from torch import Tensor


class Nf4Linear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """peft recognises it by its base class."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            inside = outside = torch.get_autocast_dtype(kind)
        else:
            inside, outside = self.compute_dtype or x.dtype, x.dtype
        bias = None if self.bias is None else self.bias.to(inside)
        out: Tensor = Nf4Product.apply(  # type: ignore[no-untyped-call]
            x.to(inside), self.weight.data, bias, self.weight.quant_state
        )
        return out.to(outside)


class Nf4Product(torch.autograd.Function):
    """x (..., in), packed weight, bias (out,) or None, its QuantState with nested scales ->
    (..., out). The gradient of x alone: everything else is frozen. Its operators are those of
    MatMul4Bit, without the Python around them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        scales = state.state2
        tensors = state.absmax, scales.absmax, scales.code, state.offset
        ctx.save_for_backward(packed, *tensors)
        ctx.form = state.blocksize, state.quant_type, state.shape, state.dtype
        ctx.nested = scales.blocksize, scales.dtype
        product: Tensor = torch.ops.bitsandbytes.gemm_4bit.default(
            x,
            packed.view(-1, 1),
            state.shape,
            scales.absmax,
            state.blocksize,
            state.quant_type,
            bias=bias,
            absmax_8bit=state.absmax,
            absmax_code=scales.code,
            absmax_offset=state.offset,
        )
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        packed, absmax, scales, code, offset = ctx.saved_tensors
        (gradient,), ops = gradients, torch.ops.bitsandbytes
        wide = ops.dequantize_blockwise.default(absmax, scales, code, *ctx.nested) + offset
        weight = ops.dequantize_4bit.default(packed.view(-1, 1), wide.float(), *ctx.form)
        return gradient @ weight.to(gradient.dtype), None, None, None
