"""How long an attention kernel takes for one forward and backward pass, at the shape of a run."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.decide.limits import SLICE_VALUES
from sd3tune.backends.kernels import sliced
from sd3tune.backends.kernels.recorded_activations import AttentionShape
from sd3tune.backends.kernels.sdpa import kernel

HEAD_DIM = 64  # of every SD3 model


@dataclass(frozen=True)
class Measured:
    """Of the fastest of several passes."""

    seconds: float
    peak_bytes: int  # 0: the device does not count them


class TimedKernel:
    """A kernel with its inputs on the device; `once` runs it."""

    def __init__(
        self, name: str, shape: AttentionShape, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.name, self.device = name, device
        dice = torch.Generator().manual_seed(0)
        size = shape.batch, shape.tokens, shape.heads, HEAD_DIM
        flat = [torch.randn(size, generator=dice).to(device, dtype) for _ in range(4)]
        self.leaves = [x.requires_grad_() for x in flat[:3]]
        self.gradient = flat[3]

    def once(self) -> Measured:
        """One forward and backward pass, waited for."""
        counts = self.device.type == "cuda"
        if counts:
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.perf_counter()
        with kernel(self.name):
            q, k, v = (x.transpose(1, 2) for x in self.leaves)
            out = self._attend(q, k, v).transpose(1, 2)
            torch.autograd.grad(out, self.leaves, self.gradient)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - started
        peak = int(torch.cuda.max_memory_allocated(self.device)) if counts else 0
        return Measured(seconds, peak)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sliced.attention(q, k, v, SLICE_VALUES) if self.name == "sliced" else sdpa(q, k, v)


def fastest(passes: list[Measured]) -> Measured:
    """The shortest time and the largest peak."""
    return Measured(min(p.seconds for p in passes), max(p.peak_bytes for p in passes))
