"""What attention must answer, and how far a right kernel is from it in each number format.

The answer is PyTorch's definition in float64. A right kernel rounds: one that is fused rounds the
weights and their gradients before each product, the definition written out in half precision rounds
everything. These are computed here with their roundings, and a kernel may err by a little more than
the worst of them. So the allowance follows the data: where half precision is hopeless every
right kernel is, and where it is exact nothing is forgiven.

Errors are compared per image and head, per tile of tokens in it, and as the factor by which an
answer is too large: one bad head is not hidden by the large values of another, and a hundredth too
much is not hidden by rounding.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("the output", "dq", "dk", "dv")
TILE = 16  # tokens
# How many times a model's error a right kernel may have: over a head, for each of NAMES, and over a
# tile. The output is one sum; what adds it in another order errs alike.
PER_HEAD, PER_TILE = (1.5, 2.0, 2.0, 2.0), 5.0
# Relative errors that are always forgiven: exponentials and sums of another library.
FLOOR = {torch.float32: 3e-5, torch.bfloat16: 5e-4, torch.float16: 1e-4}
FACTOR_FLOOR = {torch.float32: 2e-5, torch.bfloat16: 1e-3, torch.float16: 3e-4}


class AttentionInputs(NamedTuple):
    """(B, heads, tokens, head_dim); mask (B, 1, 1, tokens), True where a key counts."""

    q: Tensor
    k: Tensor
    v: Tensor
    gradient: Tensor
    mask: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "AttentionInputs":
        """The same values in another number format."""
        q, k, v, gradient = (x.to(dtype) for x in self[:4])
        return AttentionInputs(q, k, v, gradient, self.mask)


@dataclass(frozen=True)
class Expected:
    """The four answers in float64, and for each what is allowed."""

    want: tuple[Tensor, ...]
    head: tuple[Tensor, ...]  # largest norm of the error, (B, heads)
    tile: tuple[Tensor, ...]  # (B, heads, tiles)
    factor: tuple[Tensor, ...]  # largest relative error of the factor, (B, heads)


def expected(inputs: AttentionInputs, dtype: torch.dtype) -> Expected:
    """inputs: already rounded to dtype."""
    want = fused(inputs.to(torch.float64), torch.float64)
    wide = inputs.to(torch.float32)
    models = [fused(wide, dtype)]
    if dtype != torch.float32:  # in which they round nothing
        models += [written_out(wide, dtype), written_out(wide, dtype, scaled_first=False)]
    models = [m for m in models if all(bool(x.isfinite().all()) for x in m)]
    allowed = [_allowed(w, [m[i] for m in models], PER_HEAD[i], dtype) for i, w in enumerate(want)]
    return Expected(want, *zip(*allowed, strict=True))


def fused(x: AttentionInputs, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output, dq, dk, dv with scores, and the logarithm of their sum, in the format of `x`;
    rounded to dtype: weights and their gradients before a product, and what is stored."""
    scale = x.q.shape[-1] ** -0.5
    scores = _masked(x.q @ x.k.mT * scale, x.mask)
    weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    rounded = _round(weights, dtype)
    out = _round(rounded @ x.v, dtype)
    inner = (x.gradient * out).sum(-1, keepdim=True)
    ds = _round(weights * (x.gradient @ x.v.mT - inner), dtype)
    dq, dk = ds @ x.k * scale, ds.mT @ x.q * scale
    return out, _round(dq, dtype), _round(dk, dtype), _round(rounded.mT @ x.gradient, dtype)


def written_out(
    x: AttentionInputs, dtype: torch.dtype, *, scaled_first: bool = True
) -> tuple[Tensor, ...]:
    """The same with every intermediate result rounded. scaled_first: q and k are multiplied by the
    root of the scale each, as PyTorch's definition does it; otherwise the scores by the scale."""
    scale = x.q.shape[-1] ** -0.5
    before, after = (scale**0.5, 1.0) if scaled_first else (1.0, scale)
    q, k = _round(x.q * before, dtype), _round(x.k * before, dtype)
    scores = _round(_round(q @ k.mT, dtype) * after, dtype)
    weights = _round(_masked(scores, x.mask).softmax(-1), dtype)
    dp = _round(x.gradient @ x.v.mT, dtype)
    ds = _round(weights * (dp - (weights * dp).sum(-1, keepdim=True)), dtype)
    ds = _round(ds * after, dtype)
    dq, dk = (_round(_round(y, dtype) * before, dtype) for y in (ds @ k, ds.mT @ q))
    return _round(weights @ x.v, dtype), dq, dk, _round(weights.mT @ x.gradient, dtype)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def _round(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).to(x.dtype)


def _allowed(
    want: Tensor, models: list[Tensor], times: float, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """For a head, its tiles and its factor. times: a model's error over a head."""
    errors = [m.double() - want for m in models]
    size = want.square().sum((-1, -2))
    head = torch.stack([e.square().sum((-1, -2)).sqrt() for e in errors]).amax(0)
    head = times * head + FLOOR[dtype] * size.sqrt()
    tile = PER_TILE * torch.stack([tiles(e) for e in errors]).amax(0)
    usual = head[..., None] / tile.shape[-1] ** 0.5
    factors = torch.stack([factor_error(m.double(), want) for m in models]).amax(0)
    factors = torch.maximum(factors, factors.mean())  # of one head it may be small by chance
    return head, tile + usual, 3 * factors + FACTOR_FLOOR[dtype]


def tiles(x: Tensor) -> Tensor:
    """Norm of each tile of tokens: (B, heads, tokens, width) -> (B, heads, tiles)."""
    rows = x.square().sum(-1)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % TILE))
    sums: Tensor = padded.unflatten(-1, (-1, TILE)).sum(-1)
    return sums.sqrt()


def factor_error(got: Tensor, want: Tensor) -> Tensor:
    """How far the factor with which `want` fits `got` best is from 1, per image and head."""
    product: Tensor = (got * want).sum((-1, -2))
    size: Tensor = want.square().sum((-1, -2))
    return (product / size - 1).abs()
