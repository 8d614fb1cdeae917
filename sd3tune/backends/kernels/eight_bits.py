"""Products of two 8-bit matrices with a float32 scale per row: the arithmetic of W8A8 layers.

A matrix is stored as codes (int8 or float8) and one scale per row: value = code * scale. Products
are summed in int32 (exactly) or as the hardware sums float8: `torch._int_mm`, `torch._scaled_mm`.
Every device takes the same path, the limits of CUDA's kernels included, so that the CPU tests what
a card runs. Untested on hardware: only CPUs have run this.

The limits of the kernels (torch 2.13, aten/native/cuda): the second factor lies column by column,
the one layout of the 8-bit tensor cores of sm_89 and sm_90; its sizes are multiples of 16;
`_int_mm` takes 17 rows or more, and later versions of torch give it 32 (pytorch#178469);
`_scaled_mm` with scales per row writes bf16 on accelerators.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

MULTIPLE = 16
MIN_ROWS = 32
# Values of the wider of input and output that are computed at a time, outside torch.compile (which
# fuses most of it): temporaries take at most 13 bytes for each, about 0.2 GiB.
CHUNK_VALUES = 2**24


class RowScaled(NamedTuple):
    """A matrix of codes, and the scale of each row."""

    codes: Tensor  # (rows, columns), int8 or float8
    scale: Tensor  # (rows, 1), float32

    def restored(self) -> Tensor:
        """The float32 matrix (rows, columns) that this stands for."""
        return self.codes.float() * self.scale


class ColumnScaled(NamedTuple):
    """The second factor of a product, and the scale of each column; None: 1."""

    codes: Tensor  # (rows, columns), column by column in memory
    scale: Tensor | None  # (1, columns), float32


def rounded(x: Tensor, dtype: torch.dtype) -> RowScaled:
    """x (rows, columns) in 8 bits: the largest value of a row becomes the largest code.

    Rows of zeros stay zero. A NaN or an infinity reaches the scale of its row, and so everything
    that is computed from this row.
    """
    largest = torch.iinfo(dtype).max if dtype == torch.int8 else torch.finfo(dtype).max
    scale = x.abs().amax(-1, keepdim=True).float() / largest
    # Not 1e-12, say: the gradient of a mean over millions of values is smaller.
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    scaled = x / scale
    codes = (scaled.round_() if dtype == torch.int8 else scaled).to(dtype)
    return RowScaled(codes.contiguous(), scale)  # a transposed x would stay transposed


def linear(
    x: Tensor,
    weight: RowScaled,
    bias: Tensor | None,
    dtype: torch.dtype,
    most: int = CHUNK_VALUES,
) -> Tensor:
    """y = round(x) W^T + bias in `dtype`, (rows, outputs). x (rows, inputs), W (outputs, inputs).
    Each row of x is rounded to the format of W. most: values computed at a time."""
    columns = ColumnScaled(weight.codes.t(), weight.scale.t())

    def some(x: Tensor) -> Tensor:
        # Sums of less than float32, which float8 units offer, are usual forward and not backward.
        y = product(rounded(x, weight.codes.dtype), columns, fast=True)
        return (y if bias is None else y.add_(bias)).to(dtype)

    return _by_chunks(some, x, weight.codes.shape[0], dtype, most)


def input_gradient(
    g: Tensor, weight: RowScaled, dtype: torch.dtype, most: int = CHUNK_VALUES
) -> Tensor:
    """The gradient of `linear` for x in `dtype`, (rows, inputs). g (rows, outputs): that for y.

    The scales of W belong to the index that is summed here, so they cannot be applied afterwards.
    g W = (g * scale^T) codes exactly: they are multiplied into g before its rows are rounded, and
    one set of codes serves both directions. Temporary: a transposed copy of the codes.
    """
    columns = ColumnScaled(weight.codes.t().contiguous().t(), None)

    def some(g: Tensor) -> Tensor:
        return product(rounded(g * weight.scale.t(), weight.codes.dtype), columns).to(dtype)

    return _by_chunks(some, g, weight.codes.shape[1], dtype, most)


def product(left: RowScaled, right: ColumnScaled, *, fast: bool = False) -> Tensor:
    """left right, (rows, columns), in float32; in bf16 from float8 units, which write no float32
    with scales of rows. fast: they may sum in fewer bits."""
    rows, columns = left.codes.shape[0], right.codes.shape[1]
    left, right = _padded(left, right)
    if left.codes.dtype == torch.int8:
        result = torch._int_mm(left.codes, right.codes) * left.scale
        result = result if right.scale is None else result.mul_(right.scale)
    else:
        result = _float8_product(left, right, fast=fast)
    return result[:rows, :columns]


def _float8_product(left: RowScaled, right: ColumnScaled, *, fast: bool) -> Tensor:
    kind = left.codes.device.type
    ones = left.scale.new_ones(1, right.codes.shape[1])
    with torch.autocast("cpu", enabled=False):  # which would round the products to bf16 there
        return torch._scaled_mm(
            left.codes,
            right.codes,
            scale_a=left.scale,
            scale_b=ones if right.scale is None else right.scale.contiguous(),
            out_dtype=torch.float32 if kind == "cpu" else torch.bfloat16,
            use_fast_accum=fast,
        )


def _by_chunks(
    some: Callable[[Tensor], Tensor], x: Tensor, width: int, dtype: torch.dtype, most: int
) -> Tensor:
    """`some` of x, a part of the rows at a time: each row has its own scale, so nothing changes."""
    rows = max(MIN_ROWS, most // max(width, x.shape[1]))
    if torch.compiler.is_compiling() or x.shape[0] <= rows:
        return some(x)
    whole = torch.empty(x.shape[0], width, dtype=dtype, device=x.device)
    for start in range(0, x.shape[0], rows):
        whole[start : start + rows] = some(x[start : start + rows])
    return whole


def _padded(left: RowScaled, right: ColumnScaled) -> tuple[RowScaled, ColumnScaled]:
    """Both factors in sizes that the kernels take, with zeros; SD3's own sizes need none."""
    rows = max(MIN_ROWS - left.codes.shape[0], 0)
    inner, columns = -right.codes.shape[0] % MULTIPLE, -right.codes.shape[1] % MULTIPLE
    if rows or inner:
        left = RowScaled(pad(left.codes, (0, inner, 0, rows)), pad(left.scale, (0, 0, 0, rows)))
    if inner or columns:
        scale = None if right.scale is None else pad(right.scale, (0, columns))
        right = ColumnScaled(pad(right.codes.t(), (0, inner, 0, columns)).t(), scale)
    return left, right
