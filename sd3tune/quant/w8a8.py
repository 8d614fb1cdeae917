"""Linear layers that multiply in 8 bits, forward and for the gradient of their input (W8A8).

Weights are stored once, with a scale per output. Inputs and gradients are rounded to the same
format with a scale per row (token) whenever a product is computed. Only frozen layers: there is no
gradient for weights. A layer whose weights lose too much in 8 bits stays as it was; a layer whose
inputs do can be set to `weights_only`, and multiplies by the dequantised weight in the base dtype.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune.backends.kernels import eight_bits
from sd3tune.backends.kernels.eight_bits import RowScaled
from sd3tune.quant.patterns import Patterns, matching
from sd3tune.tables.schemes import Scheme


class W8A8Linear(nn.Linear):
    """A frozen linear of 8-bit weights. `weight` is the dequantised weight, computed at each read:
    code that adds to a weight or measures it is right, and nothing can be assigned to it.

    weights_only: inputs and gradients are not rounded. observer: sees inputs and outputs, and is
    None except while the layer is measured. lost: (inputs,) float32, for each input the sum of the
    squares that rounding the weight changed: what it costs with known inputs follows from it.
    """

    weights_only: bool = False
    observer: "Observer | None" = None

    def __init__(
        self, rows: RowScaled, lost: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's would make a float weight
        self.out_features, self.in_features = rows.codes.shape
        self.codes = nn.Parameter(rows.codes, requires_grad=False)
        self.scale = nn.Parameter(rows.scale, requires_grad=False)
        self.lost = nn.Parameter(lost, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # type: ignore[assignment]
        self.dtype = dtype

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(outputs, inputs), in the dtype that was quantised."""
        return self.rows.restored().to(self.dtype)

    @property
    def rows(self) -> RowScaled:
        """The stored weight."""
        return RowScaled(self.codes, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) of any dtype -> (..., outputs) in autocast's dtype, or the base dtype."""
        kind, dtype = x.device.type, self.dtype
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        flat: Tensor = EightBitProduct.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), self.codes, self.scale, self.bias, dtype, self.weights_only
        )
        y = flat.reshape(*x.shape[:-1], self.out_features)
        return y if self.observer is None else self.observer(self, x, y)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "W8A8Linear":
        """Moves, and casts the bias alone: codes and scales in another dtype would be others."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            same = result.dtype == tensor.dtype or tensor is self.bias
            return result if same else tensor.to(result.device)

        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


Observer = Callable[[W8A8Linear, Tensor, Tensor], Tensor]  # layer, input, output -> output


class EightBitProduct(torch.autograd.Function):
    """x W^T + bias (rows, outputs) of x (rows, inputs), and g W backward: both factors in 8 bits,
    or the weight alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        weights_only: bool,
    ) -> Tensor:
        ctx.save_for_backward(codes, scale)  # not x: the weights are frozen
        ctx.dtype, ctx.weights_only = x.dtype, weights_only
        weight = RowScaled(codes, scale)
        if not weights_only:
            return eight_bits.linear(x, weight, bias, dtype)
        added = None if bias is None else bias.to(dtype)
        return nn.functional.linear(x.to(dtype), weight.restored().to(dtype), added)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weight = RowScaled(*ctx.saved_tensors)
        if ctx.weights_only:
            gradient = (g @ weight.restored().to(g.dtype)).to(ctx.dtype)
        else:
            gradient = eight_bits.input_gradient(g, weight, ctx.dtype)
        return gradient, None, None, None, None, None


def quantise(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, device: torch.device | None
) -> None:
    """Replaces the linears that `which` matches in place by W8A8Linear.

    A layer whose rounded weights differ by more than the scheme's `error_limit` is left alone.
    device: where a layer is rounded, one at a time; fp8: torch's name of the chip's flavour.
    """
    dtype = format_of(scheme, fp8)
    for name in matching(module, which):
        linear = module.get_submodule(name)
        with torch.no_grad():
            weight = linear.weight.to(device or linear.weight.device)
            rows = eight_bits.rounded(weight, dtype)
            if weight_error(rows.restored(), weight) > scheme.error_limit:
                continue
            lost = (rows.restored() - weight.float()).square().sum(0)
            *home, lost = (part.to(linear.weight.device) for part in (*rows, lost))
        small = W8A8Linear(RowScaled(*home), lost, linear.bias, linear.weight.dtype)
        module.set_submodule(name, small)


def restore(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, state: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Gives a module on the meta device the weights of `state`, the state_dict of a module that
    `quantise` made. Answers with the keys that are missing and those nobody expects, as
    `load_state_dict` does. Raises KeyError."""
    base = next(t.dtype for k, t in state.items() if k.endswith(".weight"))
    for name in matching(module, which):
        if f"{name}.codes" not in state:
            continue  # left alone by `quantise`
        codes, scale, lost = (state[f"{name}.{part}"] for part in ("codes", "scale", "lost"))
        bias = state.get(f"{name}.bias")
        dtype = base if bias is None else bias.dtype
        module.set_submodule(name, W8A8Linear(RowScaled(codes, scale), lost, bias, dtype))
    missing, unexpected = module.load_state_dict(dict(state), strict=False, assign=True)
    return missing, unexpected


def format_of(scheme: Scheme, fp8: str) -> torch.dtype:
    """int8, or the chip's flavour of float8. Raises ValueError where it has none."""
    if scheme.weights == "int8":
        return torch.int8
    if fp8 == "none":
        raise ValueError("this device has no float8")
    dtype: torch.dtype = getattr(torch, fp8)
    return dtype


def weight_error(ours: Tensor, theirs: Tensor) -> float:
    """The median of |ours - theirs| / |theirs| over the columns, which are the inputs of a layer.

    Not of the whole: one large column makes the steps of every other one coarse, and the norm of
    the whole large, so that nothing would show. Not the largest: nobody misses an input whose
    weights are all but zero.
    """
    difference = (ours.float() - theirs.float()).norm(dim=0)
    size = theirs.float().norm(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    return float((difference / size).median())
