"""An adapter in memory: for each module of the transformer, by diffusers' name, what is added to
its weight. Nothing here knows a file or a dialect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

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
        """The same update with alpha = rank: the scale is multiplied into `up` and its bias."""
        if self.alpha == self.rank:
            return self
        up, bias = self.up, self.bias
        up = (up.float() * self.scale).to(up.dtype)
        bias = None if bias is None else (bias.float() * self.scale).to(bias.dtype)
        return replace(self, up=up, bias=bias, alpha=float(self.rank))


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
    """What a file holds. metadata: text that travels with it, as `modelspec.title`."""

    modules: Modules
    metadata: Mapping[str, str] = field(default_factory=dict)
