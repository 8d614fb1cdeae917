"""A LoRA and the 8-bit product beside it: as it is, and folded into one sum (`eight_bit.py lora`).

beside: y + s B A x, as peft computes it: the up product is written, read again and added.
folded: the up product adds to y where y lies (`torch.addmm`), so that one pass over the output is
saved. A kernel that adds B A x before y is written at all would save one more; there is none here.
"""

import time
from collections.abc import Callable
from typing import Any

import machine
import torch
from torch import Tensor, nn

RANK, SCALE = 16, 1.0


def measured(layer_of: Callable[[str], Any], asked: Any, width: int) -> dict[str, Any]:
    """Ratios of the time without a LoRA over that with one, forward and backward. layer_of: the
    frozen layer (width to width) of a scheme."""
    device = torch.device(asked.device)
    on_cpu = device.type == "cpu"
    dtype = torch.float32 if on_cpu else torch.bfloat16
    tokens = asked.tokens or (512 if on_cpu else 4096)
    x, g = (torch.randn(tokens, width, device=device, dtype=dtype) for _ in range(2))
    down = nn.Parameter(torch.randn(RANK, width, device=device, dtype=dtype) / width**0.5)
    up = nn.Parameter(torch.randn(width, RANK, device=device, dtype=dtype))

    def alone(layer: Any, x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return y

    def beside(layer: Any, x: Tensor) -> Tensor:
        y: Tensor = layer(x) + nn.functional.linear(nn.functional.linear(x, down), up) * SCALE
        return y

    def folded(layer: Any, x: Tensor) -> Tensor:
        return torch.addmm(layer(x), nn.functional.linear(x, down), up.t(), alpha=SCALE)

    def step(forward: Callable[[Any, Tensor], Tensor], layer: Any) -> Callable[[], object]:
        if asked.compile:
            forward = torch.compile(forward)

        def run() -> None:
            forward(layer, x.detach().requires_grad_()).backward(g)

        return run

    ratios: dict[str, Any] = {}
    for scheme in ("no_change", *asked.schemes):
        layer = layer_of(scheme)
        ways = {f.__name__: step(f, layer) for f in (alone, beside, folded)}
        seconds = machine.alternating(
            ways, asked.rounds, warmup=3, clock=time.thread_time if on_cpu else time.perf_counter,
            after=(lambda: None) if on_cpu else torch.accelerator.synchronize,
        )  # fmt: skip
        found = machine.summary(seconds, "alone")
        ratios[scheme] = {name: round(each["ratio"], 3) for name, each in found.items()}
        print(f"{width} -> {width}, {tokens} tokens, {scheme}: " + "  ".join(
            f"{name} {ratio:.2f}" for name, ratio in ratios[scheme].items()))  # fmt: skip
    return {"tokens": tokens, "rank": RANK, "time_over_alone": ratios}
