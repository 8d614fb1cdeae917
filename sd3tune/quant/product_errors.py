"""How much a layer loses by multiplying in 8 bits, measured on what passes through it.

The reference is the product with the dequantised weight in float32, so the figure is the error of
rounding inputs (forward) and gradients (backward). A part of the rows is enough: each has a scale
of its own. What rounding the weight costs with these inputs is a third figure; it follows from what
was lost of each column, which the layer keeps.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.backends.kernels import eight_bits
from sd3tune.backends.kernels.eight_bits import RowScaled
from sd3tune.quant.w8a8 import W8A8Linear

ROWS = 512  # of each input that are compared


@dataclass(frozen=True)
class ProductError:
    """|ours - reference| / |reference|, the largest of all calls. gradient: 0 where none passed.
    weight: of the output, by rounding the weight."""

    forward: float = 0.0
    gradient: float = 0.0
    weight: float = 0.0

    @property
    def worst(self) -> float:
        """The larger figure of rounding inputs and gradients, which a layer can leave."""
        return max(self.forward, self.gradient)

    def and_also(self, other: "ProductError") -> "ProductError":
        """The larger figures of both."""
        return ProductError(
            max(self.forward, other.forward),
            max(self.gradient, other.gradient),
            max(self.weight, other.weight),
        )


Errors = dict[str, ProductError]


def layers(model: Any) -> dict[str, W8A8Linear]:
    """The layers of a model that multiply in 8 bits, by their names before an adapter wrapped
    them."""
    return {
        name.removesuffix(".base_layer"): part
        for name, part in model.named_modules()
        if isinstance(part, W8A8Linear)
    }


def weights_only_layers(model: Any) -> tuple[str, ...] | None:
    """Names of the layers that multiply by their dequantised weight; None: none multiplies in 8
    bits."""
    every = layers(model)
    return tuple(n for n, layer in every.items() if layer.weights_only) if every else None


@contextmanager
def measured(which: Mapping[str, W8A8Linear]) -> Iterator[Errors]:
    """Measures the layers of `which` in every forward and backward pass inside. Blocks must not be
    compiled while this is on."""
    errors: Errors = {}
    for name, layer in which.items():
        layer.observer = _observer(name, errors)
    try:
        yield errors
    finally:
        for layer in which.values():
            layer.observer = None


def _observer(name: str, errors: Errors) -> Callable[[W8A8Linear, Tensor, Tensor], Tensor]:
    def add(error: ProductError) -> None:
        errors[name] = errors.get(name, ProductError()).and_also(error)

    def observe(layer: W8A8Linear, x: Tensor, y: Tensor) -> Tensor:
        add(ProductError(forward=forward_error(layer, x), weight=rounded_weight_error(layer, x)))
        if not y.requires_grad:
            return y

        def see(g: Tensor, rows: RowScaled) -> None:
            add(ProductError(gradient=gradient_error(rows, g)))

        observed: Tensor = _Observed.apply(y, layer.codes, layer.scale, see)  # type: ignore[no-untyped-call]
        return observed

    return observe


class _Observed(torch.autograd.Function):
    """y as it is; backward, `see` gets its gradient and the weight. The weight is saved as the
    product's own is: that of a swapped block has left the layer by then, and comes with autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, codes: Tensor, scale: Tensor, see: Callable[[Tensor, RowScaled], None]
    ) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.see = see
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.see(g[0], RowScaled(*ctx.saved_tensors))
        return g[0], None, None, None


@torch.no_grad()
def forward_error(layer: W8A8Linear, x: Tensor) -> float:
    """Of the output, without its bias, for an input x (..., inputs)."""
    rows = _some(x)
    ours = eight_bits.linear(rows, layer.rows, None, torch.float32)
    return _relative(ours, rows, layer.rows.restored().t())


@torch.no_grad()
def gradient_error(weight: RowScaled, g: Tensor) -> float:
    """Of the input's gradient, for the output's g (..., outputs)."""
    rows = _some(g)
    ours = eight_bits.input_gradient(rows, weight, torch.float32)
    return _relative(ours, rows, weight.restored())


@torch.no_grad()
def rounded_weight_error(layer: W8A8Linear, x: Tensor) -> float:
    """Of the output, by rounding the weight, as it is expected where what is lost of different
    columns is not correlated: sqrt(sum of x_k^2 lost_k) / |x W^T|."""
    rows = _some(x).float()
    with torch.autocast(rows.device.type, enabled=False):
        size = (rows @ layer.rows.restored().t()).double().norm()
    expected = (rows.double().square().sum(0) * layer.lost).sum().sqrt()
    return _finite(expected / size.clamp(min=torch.finfo(torch.float32).tiny))


def _some(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1, x.shape[-1])
    return flat[:: max(1, flat.shape[0] // ROWS)]


def _relative(ours: Tensor, rows: Tensor, factor: Tensor) -> float:
    """Of the whole, in float32; a reference of zeros has no error, and bad numbers have all."""
    with torch.autocast(rows.device.type, enabled=False):
        reference = rows.float() @ factor
    size = reference.double().norm()  # in float32 the squares of values above 1e19 are infinite
    difference = (ours.double() - reference.double()).norm()
    return _finite(difference / size.clamp(min=torch.finfo(torch.float32).tiny))


def _finite(error: Tensor) -> float:
    """A figure that can be compared: NaN is as bad as can be."""
    return float(error) if error == error else float("inf")


def names_above(errors: Mapping[str, ProductError], limit: float) -> list[str]:
    """The layers whose error is above the limit, the worst first."""
    above = {name: error.worst for name, error in errors.items() if error.worst > limit}
    return sorted(above, key=lambda name: -above[name])
