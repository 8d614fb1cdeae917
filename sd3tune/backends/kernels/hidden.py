"""Flash attention that PyTorch hides behind a variable on some AMD chips, tried with it set.

On these chips scaled_dot_product_attention takes the definition without a word: slow, and its
memory grows with the square of the tokens (pytorch's aten/…/sdp_utils.cpp, "still experimental";
unslothai/unsloth#8821: 12 times slower, 16 times the memory). PyTorch reads the variable once, at
the first attention of a process, so this program has a child process of its own
(observe/child.py). Look again when AOTriton lists every RDNA chip as supported.

Untested on hardware.
"""

import os
from functools import partial

import torch

from sd3tune.backends.kernels import attention_probes, smoke
from sd3tune.backends.kernels.attention_speed import TimedKernel, fastest
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.backends.kernels.recorded_activations import AttentionShape

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
    attention_probes.attention(device, "native-flash", dtypes=dtypes)
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
    timed = TimedKernel(name, AttentionShape(1, HEADS, tokens), dtype, device)
    best = fastest([timed.once() for _ in range(ROUNDS)])
    return best.seconds, best.peak_bytes


PROBES: dict[str, smoke.Probe] = {NAME: partial(flash)}
