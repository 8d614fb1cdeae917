"""Weight-only quantisation of frozen models, one call for every scheme.

Only linears inside the transformer blocks are touched, and not their AdaLN linears (`norm1*`),
which are a third of the parameters and the sensitive ones. Nothing here decides: the plan did.
"""

from typing import Any

import torch

SCHEMES = ("int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto", "nf4-bnb")
TRANSFORMER = (("transformer_blocks.*",), ("*norm1*",))
# T5 keeps its output projections in float32 when the rest is half precision; so do we.
TEXT_ENCODER = (("*",), ("*.wo", "shared", "*embed*", "text_projection"))


def apply(
    module: Any,
    scheme: str,
    *,
    which: tuple[tuple[str, ...], tuple[str, ...]] = TRANSFORMER,
    fp8: str = "float8_e4m3fn",
    device: torch.device | None = None,
) -> None:
    """Quantises `module` in place and freezes it; `no_change` leaves it alone.

    which: name patterns to include and to exclude. fp8: torch dtype name of the chip's flavour.
    device: where the quantised weights will live (bitsandbytes packs them there).
    """
    if scheme == "no_change":
        return
    if scheme == "nf4-bnb":
        from sd3tune.quant import bnb

        bnb.nf4(module, which, device or torch.device("cpu"))
    else:
        from sd3tune.quant import quanto

        quanto.quantise(module, scheme, which, fp8)
    module.requires_grad_(False)  # quanto's freeze() makes trainable parameters
