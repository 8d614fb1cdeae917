"""Flash attention that PyTorch hides behind a variable on some AMD chips, tried with it set.

On these chips scaled_dot_product_attention takes the definition without a word: slow, and its
memory grows with the square of the tokens (pytorch's aten/…/sdp_utils.cpp, "still experimental";
unslothai/unsloth#8821: 12 times slower, 16 times the memory). PyTorch reads the variable once, at
the first attention of a process, so this program has a child process of its own
(observe/child.py). Look again when AOTriton lists every RDNA chip as supported.

Untested on hardware.
"""

import os
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.kernels import smoke
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.backends.kernels.sdpa import kernel

VARIABLE = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
NAME = "attention_hidden"
DTYPES = (torch.float16, torch.bfloat16)
HEADS, TOKENS, ROUNDS = 8, 4096 + 77 + 256, 3  # a 1024 px image and its text, a third of the heads


def observe(device: str, *names: str) -> dict[str, dict[str, object]]:
    """The probe for the child process. A value that the user has set stays."""
    os.environ.setdefault(VARIABLE, "1")
    return {name: vars(smoke.attempt(PROBES[name], torch.device(device))) for name in names}


def flash(device: torch.device, tokens: int = TOKENS) -> str:
    """Forward and backward of the flash kernels against the definition in float64; then what they
    gain over the definition at SD3's size. Raises smoke.Wrong where they differ, and where the user
    has switched them off."""
    value = os.environ.get(VARIABLE, "1")
    if value != "1":
        raise smoke.Wrong(f"{VARIABLE}={value}, set in the environment, keeps them hidden")
    dtypes = (torch.float32,) if device.type == "cpu" else DTYPES  # the CPU has float32 alone
    for dtype in dtypes:
        smoke.attention(device, "native-flash", dtype=dtype)
    same = f"with {VARIABLE}=1 flash attention equals the definition"
    return f"{same}; {gain(device, dtypes[0], tokens)}"


def gain(device: torch.device, dtype: torch.dtype, tokens: int) -> str:
    """Time and memory of one forward and backward pass, the definition against flash."""
    fast, small = measure(device, "native-flash", dtype, tokens)
    try:
        slow, large = measure(device, "native-math", dtype, tokens)
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        return f"{tokens} tokens take {small / 2**30:.2f} GiB, where the definition runs out of it"
    words = f"{tokens} tokens {slow / fast:.1f} times as fast"
    return words + (f", {small / 2**30:.2f} GiB instead of {large / 2**30:.2f}" if large else "")


def measure(device: torch.device, name: str, dtype: torch.dtype, tokens: int) -> tuple[float, int]:
    """Seconds, best of three, and peak bytes of one pass (0: the device does not count them)."""
    flat = [torch.randn(1, tokens, HEADS, smoke.HEAD_DIM).to(device, dtype) for _ in range(4)]
    counts = device.type == "cuda"
    best = float("inf")
    with kernel(name):
        for _ in range(ROUNDS):
            if counts:
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            _once(flat)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - started)
    return best, int(torch.cuda.max_memory_allocated(device)) if counts else 0


def _once(flat: list[Tensor]) -> None:
    smoke.attention_gradients(flat, sdpa)


PROBES: dict[str, smoke.Probe] = {NAME: partial(flash)}
