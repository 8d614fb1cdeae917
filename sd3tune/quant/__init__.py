"""Weight-only quantisation of frozen models, one call for every scheme.

Only linears inside the transformer blocks are touched, and not their AdaLN linears (`norm1*`),
which are a third of the parameters and the sensitive ones. Nothing here decides: the plan did.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.quant.parts import is_nf4, stored_bytes
from sd3tune.quant.patterns import Patterns as Patterns
from sd3tune.tables.schemes import SCHEMES
from sd3tune.tables.table import load

TRANSFORMER: Patterns = (("transformer_blocks.*",), ("*norm1*",))
# T5 keeps its output projections in float32 when the rest is half precision; so do we.
TEXT_ENCODER: Patterns = (("*",), ("*.wo", "shared", "*embed*", "text_projection"))


@dataclass(frozen=True)
class Shrunk:
    """What quantising did: bytes of all weights of the module, and how long it took."""

    before: int
    after: int
    seconds: float


def apply(
    module: Any,
    scheme: str,
    *,
    which: Patterns = TRANSFORMER,
    fp8: str = "float8_e4m3fn",
    device: torch.device | None = None,
) -> Shrunk:
    """Quantises `module` in place and freezes it; `no_change` leaves it alone.

    fp8: torch dtype name of the chip's flavour. device: where the arithmetic is done, one layer
    at a time; every layer returns to where it was.
    """
    before, started = stored_bytes(module), time.perf_counter()
    row = SCHEMES[scheme]
    if not row.quantises:
        return Shrunk(before, before, 0.0)
    load(row.quantise)(module, row, which, fp8, device)
    module.requires_grad_(False)  # quanto's freeze() makes trainable parameters
    return Shrunk(before, stored_bytes(module), time.perf_counter() - started)


def dequantised(linear: Any) -> Tensor:
    """The weight (out, in) that a linear multiplies by, in the dtype it computes in.

    Code that adds to a quantised weight must start here: peft's generic layer "merges" into
    quanto's tensors without an error and without an effect.
    """
    weight: Tensor = linear.weight
    if is_nf4(weight):
        from sd3tune.quant import bnb

        return bnb.dequantised(weight)
    if type(weight).__module__.startswith("optimum.quanto"):  # which may not be installed
        return weight.dequantize()
    return weight
