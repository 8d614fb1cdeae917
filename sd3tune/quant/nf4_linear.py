"""A linear layer of nf4 weights for training, with bitsandbytes' kernels. Importing this module
imports bitsandbytes.

It differs from bitsandbytes' own layer (0.50.2) in three things. Under autocast it answers in
autocast's format, as every linear layer does: bitsandbytes answers in the format of its input,
which layer norms leave in float32, so that all activations between the layers took twice the bytes.
The packed weight and its scales are saved for the backward pass where PyTorch sees it:
bitsandbytes hides them from checkpointing, and weights that visit the device stayed there. And the
unpacked weight is never saved: the backward pass unpacks again.
"""

import copy
from collections.abc import Iterator
from typing import Any

import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor

TENSORS = ("absmax", "code", "offset")  # of bitsandbytes' QuantState


class Nf4Linear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """peft recognises it by its base class."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            inside = outside = torch.get_autocast_dtype(kind)
        else:
            inside, outside = self.compute_dtype or x.dtype, x.dtype
        bias = None if self.bias is None else self.bias.to(inside)
        with torch.autocast(kind, enabled=False):
            out: Tensor = Nf4Product.apply(  # type: ignore[no-untyped-call]
                x.to(inside), self.weight.data, bias, self.weight.quant_state
            )
        return out.to(outside)


class Nf4Product(torch.autograd.Function):
    """x (..., in), packed weight, bias (out,) or None, its QuantState -> (..., out). The gradient
    of x alone: everything else is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        tensors = list(_tensors(state))
        ctx.state = _with(state, iter([None] * len(tensors)))
        ctx.save_for_backward(packed, *tensors)
        product: Tensor = bitsandbytes.matmul_4bit(x, packed, quant_state=state, bias=bias)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        packed, *tensors = ctx.saved_tensors
        (gradient,) = gradients
        weight = dequantize_4bit(packed, _with(ctx.state, iter(tensors)))
        return gradient @ weight.to(gradient.dtype), None, None, None


def _tensors(state: Any) -> Iterator[Tensor]:
    """Those of a QuantState and of the one inside it."""
    yield from (t for name in TENSORS if isinstance(t := getattr(state, name), Tensor))
    if state.nested:
        yield from _tensors(state.state2)


def _with(state: Any, tensors: Iterator[Any]) -> Any:
    """A copy with other tensors, in the order of `_tensors`. `...` marks where there was one."""
    made = copy.copy(state)
    for name in TENSORS:
        if isinstance(getattr(state, name), Tensor | type(...)):
            tensor = next(tensors)
            setattr(made, name, ... if tensor is None else tensor)
    if state.nested:
        made.state2 = _with(state.state2, tensors)
    return made
