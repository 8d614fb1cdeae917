"""A museum of attention kernels that are wrong, each with one fault as kernels had it or might have
it, and kernels that are right in other ways than PyTorch's.

`BAD` and `RIGHT` make a kernel anew for each check, since some keep a state. Exhibits are classes
that change one step of `Kernel`, which is right.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.kernels import sliced

Attend = Callable[..., Tensor]
HALF = (torch.bfloat16, torch.float16)


class Kernel:
    """Fused attention as it should be: float32 inside, weights computed again in the backward pass
    from the logarithm of their sum, lse (B, heads, tokens, 1)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = _Fused.apply(self, q, k, v, mask)  # type: ignore[no-untyped-call]
        return out

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = q.float() @ k.float().mT * q.shape[-1] ** -0.5
        return found if mask is None else found.masked_fill(~mask, float("-inf"))

    def backward_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return self.scores(q, k, mask)

    def lse(self, scores: Tensor) -> Tensor:
        return scores.logsumexp(-1, keepdim=True)

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        return weights.to(v.dtype).float() @ v.float()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        scores = self.scores(q, k, mask)
        lse = self.lse(scores)
        return self.product((scores - lse).exp(), v).to(q.dtype), lse

    def inner(self, gradient: Tensor, out: Tensor) -> Tensor:
        return (gradient.float() * out.float()).sum(-1, keepdim=True)

    def ds(self, weights: Tensor, dp: Tensor, inner: Tensor, dtype: torch.dtype) -> Tensor:
        return (weights * (dp - inner)).to(dtype).float()

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, lse: Tensor,
        gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        weights = (self.backward_scores(q, k, mask) - lse).exp()
        dp = gradient.float() @ v.float().mT
        ds = self.ds(weights, dp, self.inner(gradient, out), q.dtype) * q.shape[-1] ** -0.5
        dv = weights.to(q.dtype).float().mT @ gradient.float()
        made = (ds @ k.float(), ds.mT @ q.float(), dv)
        return self.gradients(*(x.to(q.dtype) for x in made))

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq, dk, dv


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        out, lse = kernel.forward(q, k, v, mask)
        ctx.kernel, ctx.mask = kernel, mask
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return None, *ctx.kernel.backward(q, k, v, ctx.mask, out, lse, gradients[0]), None


class DroppedScale(Kernel):
    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q * q.shape[-1] ** 0.5, k, mask)


class ScaleForgottenInTheBackwardPass(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq * dq.shape[-1] ** 0.5, dk * dq.shape[-1] ** 0.5, dv


class ScaleOfDqAlone(Kernel):
    """As a constant of log2 that one of two products forgot."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq * 0.6931, dk, dv


class BackwardOfTheFirstShape(Kernel):
    """Cuts its loops for the tokens of the first call."""

    tokens = 0

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.tokens = self.tokens or dq.shape[2]
        dk[:, :, self.tokens :] = 0
        return dq, dk, dv


class HeadsOfTheFirstShape(Kernel):
    """The same with the number of heads."""

    heads = 0

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.heads = self.heads or dq.shape[1]
        dq[:, self.heads :] = 0
        return dq, dk, dv


class UnsynchronisedBatch(Kernel):
    """The second image's output is what the first one's was."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        out, lse = super().forward(q, k, v, mask)
        out[1] = out[0]
        return out, lse


class MissingMask(Kernel):
    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, k, None)


class MaskMissingInTheBackwardPass(Kernel):
    def backward_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, k, None)


class MaskOfTheFirstImage(Kernel):
    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, k, None if mask is None else mask[:1])


class SumsInHalfPrecision(Kernel):
    """The sum of a row's weights, over blocks of 64 keys, in the format of the inputs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        scores = self.scores(q, k, mask)
        most = scores.amax(-1, keepdim=True)
        total = torch.zeros_like(most, dtype=q.dtype)
        for block in (scores - most).exp().split(64, dim=-1):
            total += block.sum(-1, keepdim=True).to(q.dtype)
        lse = most + total.float().log()
        return self.product((scores - lse).exp(), v).to(q.dtype), lse


class OutputAddedInHalfPrecision(Kernel):
    """Over blocks of 64 keys."""

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(v)
        for w, rows in zip(weights.split(64, dim=-1), v.split(64, dim=-2), strict=True):
            out += super().product(w, rows).to(v.dtype)
        return out


class StaleWorkspace(Kernel):
    """The logarithms of the sums are kept in one buffer, which the next forward pass overwrites."""

    buffer = torch.empty(0)

    def lse(self, scores: Tensor) -> Tensor:
        found = super().lse(scores)
        self.buffer = torch.empty(max(self.buffer.numel(), found.numel()))
        self.buffer[: found.numel()] = found.flatten()
        return found

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        k, v, mask, out, lse, gradient = rest
        stale = self.buffer[: lse.numel()].view(lse.shape)
        return super().backward(q, k, v, mask, out, stale, gradient)


class KeysOfTheFirstCallOfThisShape(Kernel):
    """Keeps transposed keys for the backward pass, under their shape."""

    def __init__(self) -> None:
        self.kept: dict[torch.Size, Tensor] = {}

    def backward_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, self.kept.setdefault(k.shape, k), mask)


class SwappedGradients(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq, dv, dk


class TailOfKeysWithoutGradient(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dk[:, :, dk.shape[2] // 128 * 128 :] = 0
        return dq, dk, dv


class LastTokenWithoutGradient(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dv[:, :, -1] = 0
        return dq, dk, dv


class WholeBlocksWrong(Kernel):
    """A remainder of 0 tokens is taken for one of 128."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if dq.shape[2] % 128 == 0:
            dq[:, :, -128:] *= 2
        return dq, dk, dv


class ViewsReadAsWhole(Kernel):
    """Reads the memory of v as if it were in one piece."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().__call__(q, k, v.as_strided(v.shape, torch.empty_like(
            v, memory_format=torch.contiguous_format).stride()), mask)  # fmt: skip


class GradientReadAsWhole(Kernel):
    """Copies q, k and v into one piece, and forgets the gradient of the output."""

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        k, v, mask, out, lse, gradient = rest
        whole = torch.empty_like(gradient, memory_format=torch.contiguous_format).stride()
        read = gradient.as_strided(gradient.shape, whole)
        return super().backward(q, k, v, mask, out, lse, read)


class OffsetForgotten(Kernel):
    """Reads tensors that begin inside their memory from its beginning."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().__call__(q, k.as_strided(k.shape, k.stride(), 0), v, mask)


class FirstHeadAlone(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat([dq[:, :1], dq[:, :-1]], dim=1), dk, dv


class NoMaximumSubtracted(Kernel):
    def lse(self, scores: Tensor) -> Tensor:
        return scores.exp().sum(-1, keepdim=True).log()


class ScoresClamped(Kernel):
    """To 80, so that their exponentials stay finite."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, k, mask).clamp(-80.0, 80.0)


class GradientsUnderflow(Kernel):
    """The gradient of the weights passes through fp16."""

    def ds(self, weights: Tensor, dp: Tensor, inner: Tensor, dtype: torch.dtype) -> Tensor:
        return super().ds(weights, dp, inner, torch.float16)


class TinyGradientsFlushed(Kernel):
    def ds(self, weights: Tensor, dp: Tensor, inner: Tensor, dtype: torch.dtype) -> Tensor:
        found = super().ds(weights, dp, inner, dtype)
        return torch.where(found.abs() < 1e-7, 0.0, found)


class Fp16Inside(Kernel):
    """bf16 has the range of float32, fp16 has not."""

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        k, v, mask, out, lse, gradient = rest
        if q.dtype == torch.bfloat16:
            v, gradient = v.half(), gradient.half()
        return super().backward(q, k, v, mask, out, lse, gradient)


class GradientAddedTwiceWhenRecomputed(Kernel):
    """A second forward pass before the backward pass counts twice."""

    def __init__(self) -> None:
        self.pending: dict[int, int] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        at = q.data_ptr()
        self.pending[at] = self.pending.get(at, 0) + 1
        return super().forward(q, k, v, mask)

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        times = self.pending.pop(q.data_ptr())
        dq, dk, dv = super().backward(q, *rest)
        return dq, dk, dv * times


class LastBlockOfKeysDropped(Kernel):
    """The remainder after blocks of 16, in the forward pass."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        found = super().scores(q, k, mask)
        found[..., k.shape[2] // 16 * 16 :] = float("-inf")
        return found


class HeadsTransposed(Kernel):
    """Gradients are stored as (heads, B) and read as (B, heads)."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq.transpose(0, 1).reshape(dq.shape), dk, dv


class HundredthTooMuch(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq, dk, dv * 1.01


class HundredthTooMuchOfOneHead(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dk[-1, -1] *= 1.01
        return dq, dk, dv


class RaceOfTiles(Kernel):
    """In one pass of five a tile of 16 tokens is not there yet when dk is stored."""

    def __init__(self) -> None:
        self.dice = torch.Generator().manual_seed(0)

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if torch.rand((), generator=self.dice) < 0.2:
            first = int(torch.randint(dk.shape[2] - 16, (), generator=self.dice))
            dk[-1, -1, first : first + 16] = 0
        return dq, dk, dv


class SumsOfTheFirstImage(Kernel):
    """Right with one image."""

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        k, v, mask, out, lse, gradient = rest
        return super().backward(q, k, v, mask, out, lse[:1].expand_as(lse), gradient)


class InnerProductOfAnotherShape(Kernel):
    """rowsum(dO O) is kept under the number of values."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def inner(self, gradient: Tensor, out: Tensor) -> Tensor:
        found = super().inner(gradient, out)
        return self.kept.setdefault(found.numel(), found).view(found.shape)


class InnerProductForgotten(Kernel):
    def inner(self, gradient: Tensor, out: Tensor) -> Tensor:
        return torch.zeros_like(super().inner(gradient, out))


class InnerProductWithoutItsLastChannels(Kernel):
    def inner(self, gradient: Tensor, out: Tensor) -> Tensor:
        return super().inner(gradient[..., :60], out[..., :60])


class KeysCentredInPlace(Kernel):
    """As SageAttention 1.0.6 does: the answer is right, the caller's keys are not any more."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        k.detach().sub_(k.detach().mean(-2, keepdim=True))
        return super().__call__(q, k, v, mask)


class CausalBackwardPass(Kernel):
    """The backward pass leaves out the keys after a query."""

    def backward_scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        found = super().scores(q, k, mask)
        later = torch.ones(found.shape[-2:], dtype=torch.bool).triu(1)
        return found.masked_fill(later, float("-inf"))


class LastChannelsWrong(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dq[..., -4:] = 0
        return dq, dk, dv


class TilesLeakIntoTheNextHead(Kernel):
    """The last tile of a head writes past its end: a token of the next head gets it too."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dk[:, 1:, 0] += dk[:, :-1, -1]
        return dq, dk, dv


class ProductsInTenBits(Kernel):
    """float32 in, and bf16 in the tensor cores."""

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        return super().product(weights, v.bfloat16().float())


class MixedUpLogarithm(Kernel):
    """The sum is kept with three digits."""

    def lse(self, scores: Tensor) -> Tensor:
        return (super().lse(scores) * 128).round() / 128


class ScaleTwice(Kernel):
    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q * q.shape[-1] ** -0.5, k, mask)


class FromTheThirdCall(Kernel):
    """A ring of two buffers, of which the first is read again in the third call."""

    calls = 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        self.calls += 1
        out, lse = super().forward(q, k, v, mask)
        return (out.flip(-1) if self.calls > 2 else out), lse


class ImagesBeyondTheSecond(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dk[2:] = 0
        return dq, dk, dv


class OneImageAlone(Kernel):
    """Dimensions of one are squeezed: tokens are taken for heads. Right with two images."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(dq) == 1:
            dk = dk[0].transpose(0, 1).reshape(dk.shape)
        return dq, dk, dv


class HeadsBeyondSixteen(Kernel):
    """The grid of the backward pass ends at 16 heads; SD3.5 has 24 and 38."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dq[:, 16:] = 0
        return dq, dk, dv


class HeadsOfAllImagesBeyondSixtyFour(Kernel):
    """The same for images times heads, forward."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        out, lse = super().forward(q, k, v, mask)
        out.flatten(0, 1)[64:] = 0
        return out, lse


class OddNumberOfHalfBlocks(Kernel):
    """64, 192 or 320 tokens: the last half of a block of 128 is read twice."""

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if dq.shape[2] % 128 == 64:
            dv[:, :, -64:] *= 2
        return dq, dk, dv


class WindowOf2048(Kernel):
    """Keys further away than 2048 tokens are left out."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        found = super().scores(q, k, mask)
        if k.shape[2] <= 2048:
            return found
        far = torch.ones(found.shape[-2:], dtype=torch.bool).triu(2049)
        return found.masked_fill(far | far.mT, float("-inf"))


class CausalByDefault(Kernel):
    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
        return super().scores(q, k, mask).masked_fill(later, float("-inf"))


class DropoutLeftOn(Kernel):
    """A thousandth of the weights."""

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        return super().product(torch.nn.functional.dropout(weights, 0.001), v)


class OutputInTheQueries(Kernel):
    """The output is written to the memory of q."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        out = super().__call__(q, k, v, mask)
        q.data.copy_(out.detach())  # autograd does not see it
        return out


class OneOutputBuffer(Kernel):
    """Every output of a shape is the same memory."""

    def __init__(self) -> None:
        self.buffers: dict[torch.Size, Tensor] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        out, lse = super().forward(q, k, v, mask)
        return self.buffers.setdefault(out.shape, torch.empty_like(out)).copy_(out), lse


class AccumulatorNotCleared(Kernel):
    """dk is added to what the memory of the last backward pass of this size still holds."""

    def __init__(self) -> None:
        self.left: dict[int, Tensor] = {}

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = self.left.get(dk.numel())
        self.left[dk.numel()] = dk
        return dq, dk if before is None else dk + before.view(dk.shape), dv


class GradientOfValuesAddedInHalfPrecision(Kernel):
    """Over blocks of 16 queries."""

    def backward(self, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        k, v, mask, _, lse, gradient = rest
        dq, dk, _ = super().backward(q, *rest)
        weights = (self.backward_scores(q, k, mask) - lse).exp().to(q.dtype)
        dv = torch.zeros_like(v)
        for w, rows in zip(weights.split(16, -2), gradient.split(16, -2), strict=True):
            dv += (w.float().mT @ rows.float()).to(q.dtype)
        return dq, dk, dv


class OneRowInAHundredUnstable(Kernel):
    """Not deterministic: some rows of dq get another row's."""

    def __init__(self) -> None:
        self.dice = torch.Generator().manual_seed(0)

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        odd = torch.rand(dq.shape[2], generator=self.dice) < 0.01
        dq[:, :, odd] = dq.roll(1, 2)[:, :, odd]
        return dq, dk, dv


class QueriesAndKeysSwapped(Kernel):
    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dk, dq, dv


class KeysOfTheFirstHead(Kernel):
    """Grouped heads, where there are none."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return super().scores(q, k[:, :1].expand_as(k), mask)


class ImagesOfFixedDistance(Kernel):
    """Takes images to lie one after the other."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        _, heads, tokens, width = k.shape
        distance = heads * tokens * width
        return super().__call__(q, k.as_strided(k.shape, (distance, *k.stride()[1:])), v, mask)


class ExponentialOfTwoDigits(Kernel):
    """A polynomial of too low a degree; weights still add up to one."""

    def product(self, weights: Tensor, v: Tensor) -> Tensor:
        rough = weights * (1 + 0.02 * (8 * weights.clamp(min=1e-30).log()).sin())
        return super().product(rough / rough.sum(-1, keepdim=True), v)


class WrongWithoutGradients(Kernel):
    """Another kernel answers where no gradients are recorded, and forgets the scale."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        recorded = torch.is_grad_enabled()
        return super().__call__(q if recorded else q * q.shape[-1] ** 0.5, k, v, mask)


class GradientsInOtherPlaces(Kernel):
    """Where the queries need no gradient, the keys get theirs: as a LoRA of few layers has it."""

    frozen = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        self.frozen = not q.requires_grad
        return super().__call__(q, k, v, mask)

    def gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return dq, dq if self.frozen else dk, dv


class MaskInWholeTiles(Kernel):
    """An image's keys count up to the next multiple of 16."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            tiles = torch.nn.functional.pad(mask, (0, -mask.shape[-1] % 16)).unflatten(-1, (-1, 16))
            whole = tiles.any(-1, keepdim=True).expand_as(tiles).flatten(-2)
            mask = whole[..., : mask.shape[-1]]
        return super().scores(q, k, mask)


class MaskAddedAsNumbers(Kernel):
    """True and False are added to the scores."""

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        found = super().scores(q, k, None)
        return found if mask is None else found + mask


def forward_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As SageAttention: right, and detached; some callers mark the result as trainable."""
    return sdpa(q.detach(), k.detach(), v.detach()).requires_grad_()


def without_gradient_of_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k.detach(), v)


MASKED = (
    MissingMask, MaskMissingInTheBackwardPass, MaskOfTheFirstImage, MaskInWholeTiles,
    MaskAddedAsNumbers,
)  # fmt: skip
UNMASKED = (
    DroppedScale, ScaleForgottenInTheBackwardPass, ScaleOfDqAlone, BackwardOfTheFirstShape,
    HeadsOfTheFirstShape, UnsynchronisedBatch, SumsInHalfPrecision, OutputAddedInHalfPrecision,
    StaleWorkspace, KeysOfTheFirstCallOfThisShape, SwappedGradients, TailOfKeysWithoutGradient,
    LastTokenWithoutGradient, WholeBlocksWrong, ViewsReadAsWhole, GradientReadAsWhole,
    OffsetForgotten, FirstHeadAlone, NoMaximumSubtracted, ScoresClamped, GradientsUnderflow,
    TinyGradientsFlushed, Fp16Inside, GradientAddedTwiceWhenRecomputed, LastBlockOfKeysDropped,
    HeadsTransposed, HundredthTooMuch, HundredthTooMuchOfOneHead, RaceOfTiles, SumsOfTheFirstImage,
    InnerProductOfAnotherShape, InnerProductForgotten, InnerProductWithoutItsLastChannels,
    KeysCentredInPlace, CausalBackwardPass, LastChannelsWrong, TilesLeakIntoTheNextHead,
    ProductsInTenBits, MixedUpLogarithm, ScaleTwice, FromTheThirdCall, ImagesBeyondTheSecond,
    OneImageAlone, HeadsBeyondSixteen, HeadsOfAllImagesBeyondSixtyFour, OddNumberOfHalfBlocks,
    WindowOf2048, CausalByDefault, DropoutLeftOn, OutputInTheQueries, OneOutputBuffer,
    AccumulatorNotCleared, GradientOfValuesAddedInHalfPrecision, OneRowInAHundredUnstable,
    QueriesAndKeysSwapped, KeysOfTheFirstHead, ImagesOfFixedDistance, ExponentialOfTwoDigits,
    WrongWithoutGradients, GradientsInOtherPlaces,
)  # fmt: skip
BAD: dict[str, Callable[[], Attend]] = {
    **{kind.__name__: kind for kind in (*UNMASKED, *MASKED)},
    "forward_only": lambda: forward_only,
    "without_gradient_of_keys": lambda: without_gradient_of_keys,
}


def chunked(block: int) -> Attend:
    """Online softmax over blocks of keys in float32 (Milakov & Gimelshein 2018), differentiated by
    autograd."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide = q.float() * q.shape[-1] ** -0.5
        most = q.new_full((*q.shape[:-1], 1), float("-inf"), dtype=torch.float32)
        total, out = torch.zeros_like(most), torch.zeros_like(wide)
        for keys, values in zip(k.split(block, -2), v.split(block, -2), strict=True):
            scores = wide @ keys.float().mT
            new = torch.maximum(most, scores.amax(-1, keepdim=True)).detach()
            kept, weights = (most - new).exp(), (scores - new).exp()
            total, out = total * kept + weights.sum(-1, keepdim=True), out * kept
            out, most = out + weights @ values.float(), new
        return (out / total).to(q.dtype)

    return attend


def online(block: int, *, reversed_: bool = False) -> type[Kernel]:
    """Fused, with the online softmax of flash attention forward: weights are rounded before each
    product and kept in float32 otherwise. reversed_: from the last keys to the first."""

    class Online(Kernel):
        def forward(
            self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, ...]:
            scores = self.scores(q, k, mask)
            most = torch.full_like(scores[..., :1], float("-inf"))
            total, out = torch.zeros_like(most), torch.zeros_like(v, dtype=torch.float32)
            parts = list(zip(scores.split(block, -1), v.split(block, -2), strict=True))
            for part, values in parts[::-1] if reversed_ else parts:
                new = torch.maximum(most, part.amax(-1, keepdim=True))
                kept, weights = (most - new).exp(), (part - new).exp()
                total, out = total * kept + weights.sum(-1, keepdim=True), out * kept
                out, most = out + weights.to(q.dtype).float() @ values.float(), new
            return (out / total).to(q.dtype), most + total.log()

    return Online


class InTwoHalves(Kernel):
    """Keys in two halves, whose results are joined by the logarithms of their sums."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        halves = zip(self.scores(q, k, mask).chunk(2, -1), v.chunk(2, -2), strict=True)
        made = [(s.logsumexp(-1, keepdim=True), s.softmax(-1) @ x.float()) for s, x in halves]
        lse = torch.cat([one for one, _ in made], -1).logsumexp(-1, keepdim=True)
        return sum((one - lse).exp() * out for one, out in made).to(q.dtype), lse  # type: ignore[union-attr]


def of_pytorch(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        with sdpa_kernel([backend]):
            return sdpa(q, k, v, attn_mask=mask)

    return attend


def in_slices(most: int) -> Attend:
    return lambda q, k, v: sliced.attention(q, k, v, most)


def copied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q.contiguous(), k.contiguous(), v.contiguous())


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1, dtype=torch.float32).to(v) @ v


FLOAT, BRAIN = (torch.float32,), (torch.bfloat16,)
# And the formats in which the fast tests check them; the others check all.
RIGHT: dict[str, tuple[Callable[[], Attend], tuple[torch.dtype, ...]]] = {
    "the definition": (lambda: of_pytorch(SDPBackend.MATH), FLOAT + BRAIN),
    "flash": (lambda: of_pytorch(SDPBackend.FLASH_ATTENTION), FLOAT + HALF),
    "fused": (Kernel, FLOAT),
    "slices of one row": (lambda: in_slices(6 * 205), ()),
    "slices with a remainder": (lambda: in_slices(6 * 205 * 50), (torch.float16,)),
    "one slice": (lambda: in_slices(2**25), FLOAT),
    "blocks of 64 keys": (lambda: chunked(64), FLOAT),
    "blocks of 37 keys": (lambda: chunked(37), BRAIN),
    "online softmax": (online(64), FLOAT + BRAIN),
    "online softmax from the last keys": (online(32, reversed_=True), BRAIN),
    "two halves of the keys": (InTwoHalves, FLOAT),
    "copies": (lambda: copied, FLOAT),
    "written out": (lambda: written_out, BRAIN),
    "scaled before": (lambda: scaled_before, FLOAT),
}
