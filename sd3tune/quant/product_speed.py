"""How long linear layers take that multiply in 8 bits, beside unquantised ones of the same size.

The layers of one block (attention's four and the two of the feed-forward part), forward and the
gradient of the input, eager, taking turns. decide/product_speeds.py reads the words. Untested on
hardware.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.backends.decide import product_speeds
from sd3tune.backends.decide.kernel_speeds import words_of
from sd3tune.backends.kernels import rates
from sd3tune.backends.kernels.smoke import Wrong, fp8_flavour
from sd3tune.tables.schemes import NO_CHANGE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDS, MOST_SECONDS = 7, 2.0
WIDE = 4  # the feed-forward part, relative to the block's width


class TimedLayers:
    """The linear layers of one block under one scheme, with their inputs on the device."""

    def __init__(
        self, scheme: str, tokens: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        block = nn.Module()
        sizes = [(width, width)] * 4 + [(width, WIDE * width), (WIDE * width, width)]
        block.transformer_blocks = nn.ModuleList([nn.Linear(*s, dtype=dtype) for s in sizes])
        block.requires_grad_(False).to(device)
        quant.apply(block, scheme, fp8=fp8_flavour(device), device=device)
        block.to(device)
        self.scheme, self.device = scheme, device
        self._layers: Sequence[Callable[[Tensor], Tensor]] = list(block.transformer_blocks)
        self._inputs = [
            torch.randn(tokens, i, device=device, dtype=dtype).requires_grad_() for i, _ in sizes
        ]
        self._gradients = [torch.randn(tokens, o, device=device, dtype=dtype) for _, o in sizes]

    def once(self) -> float:
        """Seconds of one pass forward and backward through each layer, waited for."""
        started = time.perf_counter()
        for layer, x, g in zip(self._layers, self._inputs, self._gradients, strict=True):
            torch.autograd.grad(layer(x), x, g)
        rates.wait(self.device)
        return time.perf_counter() - started


def measured(device: torch.device, shape: tuple[int, int, str]) -> str:
    """The probe: the fastest pass of each scheme. shape: tokens, width, number format. A scheme
    that the device lacks is left out. Raises Wrong where none multiplies in 8 bits."""
    tokens, width, dtype = shape
    tokens = rates.tokens_of(device, tokens)
    timed = []
    for scheme in (NO_CHANGE.name, *product_speeds.multiplying()):
        try:
            one = TimedLayers(scheme, tokens, width, DTYPES[dtype], device)
            one.once()  # warms up
        except (RuntimeError, ImportError):  # the device has no such product
            continue
        timed.append(one)
    if len(timed) < 2:
        raise Wrong("no product in 8 bits runs here")
    seconds = {one.scheme: float("inf") for one in timed}
    end = time.monotonic() + MOST_SECONDS
    for number in range(ROUNDS):
        for one in timed:
            seconds[one.scheme] = min(seconds[one.scheme], one.once())
        if number > 0 and time.monotonic() > end:
            break
    return words_of(seconds)
