"""How fast a device computes: the rates from which the plan reckons the time of a step.

Matrix products, attention with its backward pass, a kernel that memory limits, and the host's time
for a small kernel. The best of several tries counts, since other programs only make it slower.
decide/speeds.py reads the words.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

Clock = Callable[[], float]
SMALL_KERNELS = 100
BACKWARD_COST = 2.5  # of attention, in forward passes: flash attention computes the scores again


@dataclass(frozen=True)
class ProbeSizes:
    """side: of square matrices. tokens: of attention. values: of a vector that memory limits."""

    side: int
    tokens: int
    values: int
    heads: int
    tries: int


# Tries of a CPU take some milliseconds each, so that one of them is likely to have the processor
# for itself on a busy machine.
ON_CPU = ProbeSizes(512, 256, 2**22, 6, 25)
ON_CARD = ProbeSizes(8192, 4096, 2**27, 24, 5)
HEAD_DIM = 64
MOST_TOKENS_OF_CPU = 128  # of linear layers at a run's own width


def rates(device: torch.device, clock: Clock = time.perf_counter) -> str:
    """The words that `speeds.figures_of` reads. clock: time.thread_time counts the work of this
    thread alone, on a CPU that others use."""
    cpu = device.type == "cpu"
    dtype, sizes = torch.float32 if cpu else half(device), ON_CPU if cpu else ON_CARD
    seconds = partial(best_seconds, device, sizes.tries, clock=clock)
    matmul = 2 * sizes.side**3 / seconds(product(device, dtype, sizes.side))
    operations = (1 + BACKWARD_COST) * 4 * sizes.tokens**2 * sizes.heads * HEAD_DIM
    attention = operations / seconds(attend(device, dtype, sizes))
    moved = 3 * sizes.values * dtype.itemsize  # two read, one written
    memory = moved / seconds(add(device, dtype, sizes.values))
    launch = seconds(small_kernels(device)) / (2 * SMALL_KERNELS)
    return (
        f"matmul {matmul / 1e12:.4g} TFLOP/s, attention {attention / 1e12:.4g} TFLOP/s, "
        f"memory {memory / 1e9:.4g} GB/s, {launch * 1e6:.3g} us a kernel"
    )


def tokens_of(device: torch.device, tokens: int) -> int:
    """How many tokens linear layers at a run's own width are measured with: a CPU is given few."""
    return min(tokens, MOST_TOKENS_OF_CPU) if device.type == "cpu" else tokens


def half(device: torch.device) -> torch.dtype:
    """bf16 where the device multiplies in it, else fp16."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    native = torch.version.hip is not None or capability >= (8, 0)
    return torch.bfloat16 if native else torch.float16


def product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def attend(device: torch.device, dtype: torch.dtype, sizes: ProbeSizes) -> Callable[[], None]:
    shape = (1, sizes.heads, sizes.tokens, HEAD_DIM)
    q, k, v, g = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    leaves = [t.requires_grad_() for t in (q, k, v)]

    def forward_and_backward() -> None:
        torch.autograd.grad(sdpa(q, k, v), leaves, g)

    return forward_and_backward


def add(device: torch.device, dtype: torch.dtype, values: int) -> Callable[[], Tensor]:
    a, b = (torch.ones(values, device=device, dtype=dtype) for _ in range(2))
    return lambda: a + b  # into memory that is asked for anew, as in training


def small_kernels(device: torch.device) -> Callable[[], None]:
    """A chain of small kernels, forward and backward."""
    x = torch.ones(8, 8, device=device).requires_grad_()

    def chain() -> None:
        y = x
        for _ in range(SMALL_KERNELS):
            y = y * 0.99
        torch.autograd.grad(y.sum(), x)

    return chain


def best_seconds(
    device: torch.device,
    tries: int,
    work: Callable[[], object],
    clock: Clock = time.perf_counter,
) -> float:
    """Of one call, the best of several, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(tries):
        wait(device)
        started = clock()
        work()
        wait(device)
        best = min(best, clock() - started)
    return best


def wait(device: torch.device) -> None:
    """Until the device has computed everything it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
