"""How fast a device computes: the rates from which the plan reckons the time of a step.

Matrix products, attention with its backward pass, a kernel that memory limits, and the host's time
for a small kernel. The best of several tries counts, since other programs only make it slower.
decide/speeds.py reads the words.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

TRIES = 5
SMALL_KERNELS = 200
BACKWARD_COST = 2.5  # of attention, in forward passes: flash attention computes the scores again


@dataclass(frozen=True)
class Sizes:
    """side: of square matrices. tokens: of attention. values: of a vector that memory limits."""

    side: int
    tokens: int
    values: int
    repeats: int  # between two looks at the clock


# A CPU takes 0.5 s for its sizes; a card that computes 5e12 operations a second takes 3 s.
ON_CPU, ON_CARD = Sizes(768, 384, 2**21, 1), Sizes(8192, 4096, 2**27, 3)
HEADS, HEAD_DIM = 24, 64


def rates(device: torch.device) -> str:
    """The words that `speeds.figures_of` reads."""
    cpu = device.type == "cpu"
    dtype, sizes = torch.float32 if cpu else half(device), ON_CPU if cpu else ON_CARD
    matmul = 2 * sizes.side**3 / _seconds(device, sizes.repeats, product(device, dtype, sizes.side))
    operations = (1 + BACKWARD_COST) * 4 * sizes.tokens**2 * HEADS * HEAD_DIM
    attention = operations / _seconds(device, sizes.repeats, attend(device, dtype, sizes.tokens))
    moved = 3 * sizes.values * dtype.itemsize  # two read, one written
    memory = moved / _seconds(device, sizes.repeats, add(device, dtype, sizes.values))
    launch = _seconds(device, 1, small_kernels(device)) / (2 * SMALL_KERNELS)
    return (
        f"matmul {matmul / 1e12:.4g} TFLOP/s, attention {attention / 1e12:.4g} TFLOP/s, "
        f"memory {memory / 1e9:.4g} GB/s, {launch * 1e6:.3g} us a kernel"
    )


def half(device: torch.device) -> torch.dtype:
    """bf16 where the device multiplies in it, else fp16."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    native = torch.version.hip is not None or capability >= (8, 0)
    return torch.bfloat16 if native else torch.float16


def product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def attend(device: torch.device, dtype: torch.dtype, tokens: int) -> Callable[[], None]:
    shape = (1, HEADS, tokens, HEAD_DIM)
    q, k, v, g = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    leaves = [t.requires_grad_() for t in (q, k, v)]

    def forward_and_backward() -> None:
        torch.autograd.grad(sdpa(q, k, v), leaves, g)

    return forward_and_backward


def add(device: torch.device, dtype: torch.dtype, values: int) -> Callable[[], Tensor]:
    a, b = (torch.ones(values, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.add(a, b, out=out)


def small_kernels(device: torch.device) -> Callable[[], None]:
    """A chain of small kernels, forward and backward."""
    x = torch.ones(8, 8, device=device).requires_grad_()

    def chain() -> None:
        y = x
        for _ in range(SMALL_KERNELS):
            y = y * 0.99
        torch.autograd.grad(y.sum(), x)

    return chain


def _seconds(device: torch.device, repeats: int, work: Callable[[], object]) -> float:
    """Of one call, the best of TRIES, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(TRIES):
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        _wait(device)
        best = min(best, (time.perf_counter() - started) / repeats)
    return best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
