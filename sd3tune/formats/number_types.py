"""Which number type stores a tensor that was scaled, and which wider one where its own cannot.

A type holds a product when what storing loses is at most the type's unit roundoff: what rounding
numbers in its normal range loses at most. More is lost where numbers fall below the normal range
(fp16 below 6e-5) or beyond the largest one. An fp8 type never holds a product: its roundoff is 6 %
and more.
"""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

WIDER = {  # type -> the next one that has all its numbers
    torch.float8_e4m3fn: torch.float16,
    torch.float8_e5m2: torch.float16,
    torch.float8_e4m3fnuz: torch.float16,
    torch.float8_e5m2fnuz: torch.float16,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The narrowest type that has all numbers of all the types. dtypes: at least one."""
    every = set(dtypes)
    if len(every) == 1:
        return every.pop()
    return reduce(torch.promote_types, (WIDER[d] if d.itemsize == 1 else d for d in every))


def stored(product: Tensor, dtype: torch.dtype, weights: Tensor | None = None) -> Tensor:
    """A product of float32 in `dtype`, or in the next wider type that holds it. weights: (columns,)
    what each column is multiplied by later, where columns count for more or less."""
    while dtype in WIDER and not holds(dtype, product, weights):
        dtype = WIDER[dtype]
    return product.to(dtype)


def holds(dtype: torch.dtype, product: Tensor, weights: Tensor | None = None) -> bool:
    """Whether a type of WIDER holds a product: |stored - product| is at most the unit roundoff
    times |product|, in the Frobenius norm."""
    if dtype.itemsize == 1:
        return False
    whole = product.double()
    lost = product.to(dtype).double() - whole
    if weights is not None:
        lost, whole = lost * weights.double(), whole * weights.double()
    return bool(lost.norm() <= torch.finfo(dtype).eps / 2 * whole.norm())


def name(dtype: torch.dtype) -> str:
    """As people write it: float16."""
    return str(dtype).removeprefix("torch.")
