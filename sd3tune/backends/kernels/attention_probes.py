"""The probes of attention kernels: admitted by the gradient check, in every number format that the
kernel has; SageAttention, which only samples, by its output."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from sd3tune.backends.kernels import gradient_check, sliced
from sd3tune.backends.kernels.attention_cases import one_thread
from sd3tune.backends.kernels.gradient_check import DTYPES, Attend
from sd3tune.backends.kernels.sdpa import KERNELS, kernel

SLICE = 6 * 205 * 64  # scores: several slices of the check's cases, the last one shorter
EXACT = ("native-math", "diffusers", "sliced")  # the others are half precision kernels on a card


def attention(
    device: torch.device,
    name: str,
    attend: Attend | None = None,
    dtypes: Sequence[torch.dtype] = (),
) -> str:
    """Raises Wrong for a wrong answer in any format. dtypes: that must work; none given: the one of
    `working_dtype`, and the others where the kernel exists for them. attend: None is the kernel of
    that name."""
    if attend is None:
        attend = partial(sliced.attention, most=SLICE) if name == "sliced" else sdpa
    checked = list(dtypes) or [working_dtype(device, name)]
    lacking: list[torch.dtype] = []
    others = [] if dtypes else [d for d in formats_of(device) if d not in checked]
    with kernel(name), one_thread() if device.type == "cpu" else nullcontext():
        worst = max(gradient_check.check(attend, device, dtype) for dtype in checked)
        for dtype in others:
            try:
                worst = max(worst, gradient_check.check(attend, device, dtype))
                checked.append(dtype)
            except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
                lacking.append(dtype)
    words = f"forward and backward match in {_names(checked)}, error {worst:.0%} of what is allowed"
    return words + (f"; no kernel for {_names(lacking)}" if lacking else "")


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def formats_of(device: torch.device) -> tuple[torch.dtype, ...]:
    """What a run may compute in there: fp16 is for cards without bf16 (options.py)."""
    return DTYPES if device.type == "cuda" else (torch.float32, torch.bfloat16)


def working_dtype(device: torch.device, name: str) -> torch.dtype:
    """Kernels named by the user are half precision ones, except where only float32 is native."""
    return torch.float32 if device.type == "cpu" or name in EXACT else torch.float16


def sage(device: torch.device) -> str:
    """Forward only, by design."""
    from sageattention import sageattn

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = sageattn(q, k, v, tensor_layout="HND")
        return out

    worst = gradient_check.check_output(attend, device, torch.float16)
    return f"forward matches, error {worst:.0%} of what is allowed"


PROBES: dict[str, Callable[[torch.device], str]] = {
    **{f"attention_{name}": partial(attention, name=name) for name in KERNELS},
    "attention_sageattention": sage,
}
