"""The attentions that a kernel is checked with: what differs between them is what kernels have been
wrong in.

* Another shape after the first, with the same number of values, of tokens, or of images: caches and
  workspaces with too short a key. The same shape with other values.
* Several forward passes before the backward passes, as in a model: results kept in a workspace.
* Views of several kinds, as models have them, and tensors in one piece.
* Tokens in whole blocks of 128, half of one and with a remainder; more than 2048; many tokens with
  nearly equal weights, where sums in half precision stall.
* One image; as many heads as SD3.5 large has. Inputs that need no gradient, since few layers have
  an adapter.
* Scores of several hundred, outliers among the values, gradients too small or too large for fp16.
* A recomputed forward pass; keys that are padding, where the kernel takes a mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sd3tune.backends.kernels.expected_attention import AttentionInputs, Expected, expected
from sd3tune.backends.kernels.recorded_activations import AttentionShape, activations

CHANNEL, TOKEN = 5, 3  # of the outliers
PADDING = 17  # tokens that an image has more than the one before


@dataclass(frozen=True)
class Case:
    """One attention. The factors are those of q, of the outliers in v, and of the gradient.
    trained: the inputs that need a gradient."""

    layer: str
    shape: AttentionShape
    layout: str = "views"  # of (B, tokens, heads, head_dim); `contiguous`; `part` of a larger one
    seed: int = 0
    q: float = 1.0
    shift: float = 0.0  # length of a vector added to every key: the weights stay
    outliers: float = 1.0
    gradient: float = 1.0
    recomputed: bool = False
    padded: bool = False
    trained: str = "qkv"

    def __str__(self) -> str:
        s = self.shape
        named = [self.layout, f"q times {self.q:g}" * (self.q != 1), "recomputed" * self.recomputed,
                 f"keys plus {self.shift:g}" * bool(self.shift), "padded" * self.padded,
                 f"gradient times {self.gradient:.0e}" * (self.gradient != 1),
                 f"gradient of {self.trained} alone" * (self.trained != "qkv")]  # fmt: skip
        what = ", ".join(filter(None, named))
        return f"{s.batch} images, {s.heads} heads, {s.tokens} tokens ({what})"


SMALL = Case("joint-first", AttentionShape(2, 3, 205))
SAME_NUMBER = Case("joint-middle", AttentionShape(3, 2, 205))  # of values
WHOLE_BLOCKS = Case("image", AttentionShape(2, 3, 128))
REPEATED = 12  # times SMALL, one after the other: races


def rounds(dtype: torch.dtype, *, padded: bool) -> list[tuple[Case, ...]]:
    """The cases of a number format; those of a tuple run forward one after the other and then
    backward in reverse. padded: the kernel takes a mask."""
    half = dtype != torch.float32
    fp16 = dtype == torch.float16
    made: list[tuple[Case, ...]] = [
        (
            SMALL,
            Case("joint-middle", AttentionShape(3, 2, 205)),
            Case("image", AttentionShape(2, 3, 128)),
        ),
        (Case("joint-middle", SMALL.shape, "contiguous", seed=1), SMALL),
        (Case("joint-first", AttentionShape(3, 4, 77), "part"),),
        (Case("joint-middle", AttentionShape(2, 2, 173), recomputed=True),),
        (Case("joint-first", AttentionShape(2, 2, 269), shift=240.0, outliers=64.0, seed=2),),
        (Case("joint-middle", SMALL.shape, gradient=2.0**-12 if fp16 else 2.0**-60),),
        (SMALL,) * REPEATED,
        (Case("image", AttentionShape(1, 5, 192)),),
        (Case("joint-first", AttentionShape(2, 38, 80)),),
        (
            Case("joint-first", AttentionShape(2, 2, 93), trained="kv"),
            Case("joint-first", AttentionShape(2, 2, 93), trained="v", seed=1),
        ),
        (Case("joint-middle", AttentionShape(1, 1, 2178)),),
    ]
    if half:
        made += [(Case("image", AttentionShape(2, 1, 1101), q=1 / 16),)]
        large = Case("joint-first", SMALL.shape, shift=16000.0, outliers=1024.0, gradient=2.0**12)
        made += [] if fp16 else [(large,)]
    if padded:
        made += [(Case("joint-first", AttentionShape(3, 2, 205), padded=True), SMALL)]
    return made


@cache
def inputs_of(case: Case, dtype: torch.dtype) -> AttentionInputs:
    """(B, heads, tokens, head_dim) in `dtype`, on the CPU."""
    with one_thread():
        return _inputs(case).to(dtype)


def _inputs(case: Case) -> AttentionInputs:
    """In float32."""
    q, k, v, gradient = (x.transpose(1, 2) for x in activations(case.layer, case.shape, case.seed))
    if case.shift:
        mean = torch.nn.functional.normalize(q.mean(-2, keepdim=True), dim=-1)
        sign = torch.arange(case.shape.heads).remainder(2).mul(-2).add(1)[:, None, None]
        k = k + case.shift * sign * mean
    v = v.clone()
    v[..., CHANNEL] *= case.outliers
    v[..., TOKEN, :] *= case.outliers
    mask = None
    if case.padded:
        kept = case.shape.tokens - PADDING * torch.arange(1, case.shape.batch + 1)
        mask = (torch.arange(case.shape.tokens) < kept[:, None])[:, None, None]
    return AttentionInputs(case.q * q, k, v, case.gradient * gradient, mask)


@cache
def expected_of(case: Case, dtype: torch.dtype) -> Expected:
    """What the case must come to."""
    with one_thread():
        return expected(inputs_of(case, dtype), dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """For small products: on a busy machine several threads wait for each other at each of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """(B, heads, tokens, head_dim), in new memory, with the strides of a layout."""
    batch, heads, tokens, width = x.shape
    if layout == "contiguous":
        return x.clone(memory_format=torch.contiguous_format)
    if layout == "part":  # of q, k and v in one tensor, with images and tokens that are left out
        whole = x.new_full((batch + 1, tokens + 3, 3, heads, width), 7.0)
        part = whole[1:, 2:-1, 1]
    else:
        part = x.new_empty(batch, tokens, heads, width)
    return part.copy_(x.transpose(1, 2)).transpose(1, 2)
