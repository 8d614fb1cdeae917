"""An adapter in memory: for each module of the transformer, by diffusers' name, what is added to
its weight. Nothing here knows a file or a dialect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sd3tune.formats import number_types

Base: TypeAlias = Callable[[str], Tensor]  # diffusers' module -> its frozen weight (out, in)


@dataclass(frozen=True)
class LoraWeights:
    """W + alpha / rank up down (Hu et al. 2021, equation 3); with a magnitude, DoRA: each row of
    that brought to the length the magnitude says (Liu et al. 2024, equation 5)."""

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)
    alpha: float
    magnitude: Tensor | None = None  # (out,)
    bias: Tensor | None = None  # (out,) of `up`: alpha / rank times it goes to the layer's bias

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def folded(self) -> "LoraWeights":
        """The same update with alpha = rank: the scale is multiplied into `up` and its bias, in
        float32. They are stored in their own type where it holds the products, else in the next
        wider one, and the other tensors with them (number_types.py)."""
        if self.alpha == self.rank:
            return self
        lengths = self.down.float().norm(dim=1)  # (rank,) what the columns of `up` weigh
        up = number_types.stored(self.up.float() * self.scale, self.up.dtype, lengths)
        made, types = replace(self, up=up, alpha=float(self.rank)), {self.up.dtype, up.dtype}
        if self.bias is not None:
            bias = number_types.stored(self.bias.float() * self.scale, self.bias.dtype)
            made, types = replace(made, bias=bias), types | {bias.dtype, self.bias.dtype}
        widened = up.dtype != self.up.dtype or made.bias_type != self.bias_type
        return made.to(number_types.widest(types)) if widened else made

    @property
    def bias_type(self) -> torch.dtype | None:
        """The number type of its bias, where it has one."""
        return None if self.bias is None else self.bias.dtype

    def to(self, dtype: torch.dtype) -> "LoraWeights":
        """Every tensor in a type that has all their numbers; wider tensors stay as they are."""
        names = ("down", "up", "magnitude", "bias")
        held = {k: t for k in names if (t := getattr(self, k)) is not None}
        changed: dict[str, Any] = {
            k: t.to(number_types.widest((t.dtype, dtype))) for k, t in held.items()
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class LycorisWeights:
    """Tensors of lycoris-lora under its own names, without `alpha`; a plain difference of weights
    is its algorithm "full": `diff` (out, in) and `diff_b` (out,)."""

    algorithm: str
    tensors: Mapping[str, Tensor]
    alpha: float | None = None

    @property
    def dora(self) -> bool:
        return "dora_scale" in self.tensors


ModuleWeights: TypeAlias = LoraWeights | LycorisWeights
Modules: TypeAlias = Mapping[str, ModuleWeights]  # by diffusers' names


@dataclass(frozen=True)
class AdapterFile:
    """What a file holds. metadata: text that travels with it, as `modelspec.title`. assumed:
    sentences about what the file does not state."""

    modules: Modules
    metadata: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
