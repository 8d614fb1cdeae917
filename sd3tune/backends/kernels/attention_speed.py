"""How long attention kernels take for one forward and backward pass, at the shape of a run.

A kernel that the device lacks is left out, and so is one whose answers at this shape are not those
of sliced attention in float32: the gradient check (gradient_check.py) is stricter, and has smaller
shapes.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.decide import kernel_speeds
from sd3tune.backends.decide.limits import SLICE_VALUES
from sd3tune.backends.kernels import sliced
from sd3tune.backends.kernels.gradient_check import Attend, Wrong
from sd3tune.backends.kernels.recorded_activations import AttentionShape
from sd3tune.backends.kernels.sdpa import kernel

HEAD_DIM = 64  # of every SD3 model
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Relative errors over one image and head that rounding explains, at any number of tokens.
ROUNDED = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}
ROUNDS, MOST_SECONDS = 7, 2.0  # of all kernels in turn


@dataclass(frozen=True)
class Measured:
    """Of the fastest of several passes."""

    seconds: float
    peak_bytes: int  # 0: the device does not count them


class TimedKernel:
    """A kernel with its inputs on the device; `once` runs it."""

    def __init__(
        self,
        name: str,
        shape: AttentionShape,
        dtype: torch.dtype,
        device: torch.device,
        attend: Attend = sdpa,
    ) -> None:
        self.name, self.device = name, device
        self._attend = partial(sliced.attention, most=SLICE_VALUES) if name == "sliced" else attend
        dice = torch.Generator().manual_seed(0)
        size = shape.batch, shape.tokens, shape.heads, HEAD_DIM
        flat = [torch.randn(size, generator=dice).to(device, dtype) for _ in range(4)]
        self.leaves = [x.requires_grad_() for x in flat[:3]]
        self.gradient = flat[3]

    def answers(self) -> list[Tensor]:
        """Output, dq, dk, dv: (B, tokens, heads, head_dim) each."""
        with kernel(self.name):
            q, k, v = (x.transpose(1, 2) for x in self.leaves)
            out = self._attend(q, k, v).transpose(1, 2)
            return [out.detach(), *torch.autograd.grad(out, self.leaves, self.gradient)]

    def once(self) -> Measured:
        """One forward and backward pass, waited for."""
        counts = self.device.type == "cuda"
        if counts:
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        self.answers()
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - started
        peak = int(torch.cuda.max_memory_allocated(self.device)) if counts else 0
        return Measured(seconds, peak)


def fastest(passes: list[Measured]) -> Measured:
    """The shortest time and the largest peak."""
    return Measured(min(p.seconds for p in passes), max(p.peak_bytes for p in passes))


def measured(
    device: torch.device,
    shape: tuple[int, int, int, str],
    names: Sequence[str] = kernel_speeds.FUSED,
    attend: Attend = sdpa,
) -> str:
    """The probe: the fastest pass of each kernel, the kernels taking turns. shape: batch, heads,
    tokens, number format. attend: what `names` restrict to a kernel. Raises Wrong where no kernel
    is right."""
    batch, heads, tokens, dtype = shape
    size = AttentionShape(batch, heads, tokens)
    made = [TimedKernel(name, size, DTYPES[dtype], device, attend) for name in names]
    want = TimedKernel("sliced", size, DTYPES[dtype], device).answers()
    right = [timed for timed in made if _is_right(timed, want)]
    if not right:
        raise Wrong(f"no kernel of {', '.join(names)} is right at this shape")
    del want
    seconds = {timed.name: float("inf") for timed in right}
    end = time.monotonic() + MOST_SECONDS
    for number in range(ROUNDS):
        for timed in right:
            seconds[timed.name] = min(seconds[timed.name], timed.once().seconds)
        if number > 0 and time.monotonic() > end:
            break
    return kernel_speeds.words_of(seconds)


def _is_right(timed: TimedKernel, want: list[Tensor]) -> bool:
    """Every answer, each image and head by itself. The first pass also warms the kernel up."""
    with suppress(RuntimeError):  # the device has no such kernel
        return all(_error(g, w) <= ROUNDED[g.dtype]
                   for g, w in zip(timed.answers(), want, strict=True))  # fmt: skip
    return False


def _error(got: Tensor, want: Tensor) -> float:
    """The largest of an image and head, relative; NaN counts as infinite."""
    error = (got.float() - want.float()).norm(dim=(1, 3)) / want.float().norm(dim=(1, 3))
    return float(error.nan_to_num(torch.inf).max())
