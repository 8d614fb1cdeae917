"""Products in 8 bits of inputs that nobody chose: every format, layout, size and magnitude, against
float64 and the bounds of product_bounds.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune import quant
from sd3tune.quant.w8a8 import W8A8Linear
from tests.cpu.product_bounds import FORMATS, backward_bound, dice, forward_bound, layer

LAYOUTS = ("whole", "transposed", "every other", "one row for all")
LOWEST = 1e-30  # products of the smallest magnitudes end here, above float32's own end


@dataclass(frozen=True)
class Values:
    """How a matrix is drawn. sizes: powers of ten that its rows take; outlier: of one column."""

    seed: int
    sizes: tuple[int, int]
    outlier: int
    zero_rows: int
    zero_columns: int
    layout: str
    format: torch.dtype

    def drawn(self, rows: int, columns: int) -> Tensor:
        x = dice(self.seed, rows, columns)
        if rows:
            x *= torch.logspace(self.sizes[0], self.sizes[1], rows)[:, None]
        x[:, self.seed % columns] *= 10.0**self.outlier
        x[: self.zero_rows] = 0
        x[:, : self.zero_columns] = 0
        return self.laid_out(x.to(self.format))

    def laid_out(self, x: Tensor) -> Tensor:
        if self.layout == "transposed":
            return x.t().contiguous().t()
        if self.layout == "every other":
            return torch.stack([x, x + 1], -1).flatten(-2)[:, ::2]
        if self.layout == "one row for all" and len(x):
            return x[-1:].expand(x.shape)
        return x


def values(*formats: torch.dtype) -> st.SearchStrategy[Values]:
    power = st.integers(-4, 4)
    return st.builds(
        Values, st.integers(0, 10**6), st.tuples(power, power), st.integers(0, 4),
        st.integers(0, 2), st.integers(0, 2), st.sampled_from(LAYOUTS), st.sampled_from(formats),
    )  # fmt: skip


INPUTS = values(torch.float32, torch.bfloat16)
SIZES = st.tuples(st.integers(0, 40), st.integers(1, 70), st.integers(1, 50))
USUAL = Values(1, (-1, 1), 1, 0, 0, "whole", torch.float32)
TRANSPOSED = Values(1, (-1, 1), 1, 0, 0, "transposed", torch.float32)


@settings(max_examples=60)
@given(st.sampled_from(FORMATS), SIZES, INPUTS, INPUTS, values(torch.float32))
@example(torch.int8, (0, 16, 16), USUAL, USUAL, USUAL)
@example(torch.float8_e4m3fn, (1, 16, 16), USUAL, USUAL, USUAL)
def test_products_of_any_input_stay_within_the_bounds(
    dtype: torch.dtype, sizes: tuple[int, int, int], x: Values, g: Values, w: Values
) -> None:
    rows, inputs, outputs = sizes
    there, weight = x.drawn(rows, inputs), w.drawn(outputs, inputs)
    leaf, gradient = there.detach().requires_grad_(), g.drawn(rows, outputs).float()
    y = layer(weight, dtype)(leaf)
    y.backward(gradient)
    assert leaf.grad is not None and leaf.grad.dtype == there.dtype
    want = there.double() @ weight.double().t()
    assert ((y.detach() - want).abs() <= forward_bound(there, weight, dtype) + LOWEST).all()
    wanted = gradient.double() @ weight.double()
    rounding = 2**-8 * wanted.abs() if there.dtype == torch.bfloat16 else 0
    bound = backward_bound(gradient, weight, dtype) * 1.01 + rounding + LOWEST
    assert ((leaf.grad.double() - wanted).abs() <= bound).all()


class Operands(TorchDispatchMode):
    """Arguments of the two products, which CUDA takes in one layout and CPUs in any."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, Sequence[Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name in ("aten::_int_mm", "aten::_scaled_mm"):
            self.seen.append((func._schema.name, args))
        return func(*args, **(kwargs or {}))


@settings(max_examples=30)
@given(st.sampled_from(FORMATS), SIZES, INPUTS, INPUTS)
@example(torch.int8, (1, 33, 7), USUAL, USUAL)
@example(torch.int8, (32, 48, 64), TRANSPOSED, TRANSPOSED)  # whose operands are not padded
@example(torch.float8_e4m3fn, (32, 48, 64), TRANSPOSED, TRANSPOSED)
def test_products_get_operands_as_the_kernels_of_cards_take_them(
    dtype: torch.dtype, sizes: tuple[int, int, int], x: Values, g: Values
) -> None:
    """aten/native/cuda/Blas.cpp and ScaledBlas.cpp of torch 2.13: row by row times column by
    column, multiples of 16, more than 16 rows for integers, and a float32 scale per row."""
    rows, inputs, outputs = sizes
    leaf = x.drawn(rows, inputs).detach().requires_grad_()
    with Operands() as operands:
        layer(dice(1, outputs, inputs), dtype)(leaf).backward(g.drawn(rows, outputs).float())
    assert len(operands.seen) == 2
    for name, (left, right, *scales) in operands.seen:
        (height, inner), width = left.shape, right.shape[1]
        assert left.stride() == (inner, 1) and right.stride() == (1, inner)
        assert inner % 16 == width % 16 == 0
        if name == "aten::_int_mm":
            assert height > 16
        else:
            assert [s.shape for s in scales[:2]] == [(height, 1), (1, width)]
            assert all(s.is_contiguous() and s.dtype == torch.float32 for s in scales[:2])


@settings(max_examples=30)
@given(
    st.sampled_from(FORMATS), INPUTS, st.integers(0, 19), st.integers(0, 32),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.booleans(),
)  # fmt: skip
def test_a_bad_number_anywhere_stays_one_in_its_row_and_changes_no_other(
    dtype: torch.dtype, x: Values, row: int, column: int, bad: float, weights_only: bool
) -> None:
    """An integer has no NaN: it must not become a number on the way."""
    linear = layer(dice(1, 48, 33), dtype)
    linear.weights_only = weights_only
    there = x.drawn(20, 33).clone()
    spoilt = there.clone()
    spoilt[row, column] = bad
    y, z = linear(there), linear(spoilt)
    others = torch.arange(20) != row
    assert torch.equal(y[others], z[others])
    assert not z[row].isfinite().any()


@given(st.sampled_from(["int8-w8a8", "fp8-w8a8"]), st.sampled_from([float("nan"), float("inf")]))
@settings(max_examples=4)
def test_a_bad_weight_stays_one(scheme: str, bad: float) -> None:
    """In the row where it is: the limit of the weights' error lets it pass, the guard sees it."""
    block = nn.Module()
    plain = nn.Linear(32, 32, bias=False)
    plain.weight.data[5, 7] = bad
    block.transformer_blocks = nn.ModuleList([plain])
    block.requires_grad_(False)
    quant.apply(block, scheme)
    (linear,) = block.transformer_blocks
    assert isinstance(linear, W8A8Linear)
    y: Tensor = linear(dice(1, 20, 32))
    assert (~y.isfinite()).any(0).nonzero().flatten().tolist() == [5]
