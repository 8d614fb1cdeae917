"""What a card does and a CPU does not, put in by hand: fake tensors of a CPU build of PyTorch
cannot be on a card ("not linked with support for cuda").

Each difference changes what a step keeps. Without any one of them the count is wrong by gigabytes
(docs/reference/memory.md). Look again when torch changes its lists of autocast or its attention.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sd3tune.backends.decide.limits import DROPOUT_MASK_BYTES, FLOAT32_LAYER_NORMS
from sd3tune.counted.living_storages import Inside

DEVICE = "cpu"  # of the fake tensors
FLASH_ROWS = 128  # flash attention's backward pads queries to blocks of so many
PLAIN_LAYER_NORM = F.layer_norm


def _dequantised(place: int, copies: int) -> Inside:
    """Bytes of the weight that an operator dequantises into the format of its first argument.
    place: of the weight, or its shape, in the arguments."""

    def inside(args: tuple[Any, ...], kwargs: Any) -> int:
        shape = args[place] if isinstance(args[place], tuple | list) else args[place].shape
        return int(copies * math.prod(shape) * args[0].element_size())

    return inside


def _of_slices(args: tuple[Any, ...], kwargs: Any) -> int:
    """Two float32 slices of scores, and float32 copies of key and value."""
    q, k, _v, most = args
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    return 4 * int(2 * min(most, scores) + 2 * k.numel())


INSIDE = {  # what operators that are one to the dispatcher take while they run
    "quanto::qbytes_mm": _dequantised(1, 1),
    "bitsandbytes::gemm_4bit": _dequantised(2, 1),
    "sd3tune::sliced_attention": _of_slices,
}


class FlashMemory(torch.autograd.Function):
    """Flash attention's allocations: output and log-sum-exp in the forward pass; gradients of
    query, key and value, a float32 sum for the query's and a row of dot products in the backward
    pass (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h, n, d = q.shape
        out = torch.empty(b, n, h, d, dtype=q.dtype, device=q.device).transpose(1, 2)
        sums = torch.empty(b, h, n, dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _out, _sums = ctx.saved_tensors
        b, h, n, d = q.shape
        rows = -(-n // FLASH_ROWS) * FLASH_ROWS

        def like(t: Tensor) -> Tensor:
            rows_first = torch.empty(b, t.shape[2], h, d, dtype=t.dtype, device=t.device)
            return rows_first.transpose(1, 2)

        sums = torch.empty(b, h, rows, d, dtype=torch.float32, device=q.device)
        dots = torch.empty(b, h, rows, dtype=torch.float32, device=q.device)
        found = like(q), like(k), like(v)
        del sums, dots
        return found


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, *args: Any, **options: Any
) -> Tensor:
    """scaled_dot_product_attention, which autocast computes in its own format."""
    if torch.is_autocast_enabled(DEVICE):
        q, k, v = (t.to(torch.get_autocast_dtype(DEVICE)) for t in (q, k, v))
    out: Tensor = FlashMemory.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out


def layer_norm(
    x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """In float32 under autocast, as on CUDA's list (aten/src/ATen/autocast_mode.h)."""
    if torch.is_autocast_enabled(DEVICE):
        x = x.float()
        weight, bias = (t if t is None else t.float() for t in (weight, bias))
    return PLAIN_LAYER_NORM(x, shape, weight, bias, eps)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """The fused kernel, which keeps a mask of one byte a value."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


@contextmanager
def as_on(vendor: str, *, scores: bool = False) -> Iterator[None]:
    """Functions of PyTorch as a card of the vendor has them, while the block runs. scores:
    attention writes out its scores, as PyTorch's definition of it does."""
    with ExitStack() as stack:
        if FLOAT32_LAYER_NORMS[vendor]:
            stack.enter_context(exchanged(F, "layer_norm", layer_norm))
            if scores:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            else:
                stack.enter_context(exchanged(F, "scaled_dot_product_attention", attention))
        if DROPOUT_MASK_BYTES[vendor] == 1:
            stack.enter_context(exchanged(F, "dropout", dropout))
        yield


@contextmanager
def exchanged(module: Any, name: str, other: Any) -> Iterator[None]:
    """Another function under that name while the block runs."""
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


def over_all_weights(optimizer: torch.optim.Optimizer) -> None:
    """PyTorch's optimizers update all weights at once on a card, which makes temporary copies of
    all of them (torch.optim, `foreach`)."""
    for group in optimizer.param_groups:
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True
