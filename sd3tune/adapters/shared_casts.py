"""LoRA's weights in autocast's format, cast once a step.

Autocast casts a float32 weight in every forward pass, and again where checkpointing recomputes a
block. The weights change once a step, so all passes of a step may share one copy. Each backward
pass goes through the same cast to the float32 weight as before: the gradients are the same bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SharedCast(nn.Linear):
    """A product of LoRA. shared: its weight in another format, which passes share; the weight
    itself stays what the optimizer and files see."""

    shared: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        weight = self.weight if self.shared is None else self.shared
        return nn.functional.linear(x, weight, self.bias)


def sharing(model: Any, name: str) -> tuple[SharedCast, ...]:
    """Turns the products of adapter `name` of peft into ones that can share their casts. Not for
    DoRA, which uses the weights in other places as well: there, their gradients would be added in
    another format."""
    factors: list[SharedCast] = []
    for layer in model.modules():
        for part in ("lora_A", "lora_B"):
            held = getattr(layer, part, None)
            if isinstance(held, nn.ModuleDict) and name in held and type(held[name]) is nn.Linear:
                held[name].__class__ = SharedCast
                factors.append(held[name])  # type: ignore[arg-type]
    return tuple(factors)


@contextmanager
def cast_once(factors: Sequence[SharedCast], dtype: torch.dtype | None) -> Iterator[None]:
    """The passes inside share one copy of each weight in this format; None: the weights themselves.
    The weights must not change inside."""
    if dtype is None:
        yield
        return
    for factor in factors:
        factor.shared = factor.weight.to(dtype)
    try:
        yield
    finally:
        for factor in factors:
            factor.shared = None
