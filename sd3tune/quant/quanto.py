"""optimum-quanto's integer and float8 weights, called directly.

diffusers' QuantoConfig is deprecated for 1.0 and cannot exclude norm1.linear. Two parts of quanto
0.2.7 are replaced, because both need a compiler at first use and write into site-packages:

* unpacking int4 and int2 (a C++, CUDA, HIP or Metal extension): four lines of PyTorch, bit-equal
* its CUDA kernels: the fp8 one (Marlin) drops the bias of every linear; without the extension
  quanto multiplies by the dequantised weight

Look again at quanto 0.2.8.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def quantise(
    module: Any, scheme: str, which: tuple[tuple[str, ...], tuple[str, ...]], fp8: str
) -> None:
    """In place; weights are frozen quantised tensors afterwards."""
    import optimum.quanto as quanto

    without_extensions()
    weights = {
        "int8-quanto": quanto.qint8,
        "int4-quanto": quanto.qint4,
        "int2-quanto": quanto.qint2,
        "fp8-quanto": quanto.qfloat8_e4m3fnuz if fp8.endswith("fnuz") else quanto.qfloat8_e4m3fn,
    }[scheme]
    include, exclude = which
    quanto.quantize(module, weights=weights, include=list(include), exclude=list(exclude))
    quanto.freeze(module)
    for part in module.modules():
        if isinstance(part, quanto.QLinear):
            part.register_forward_pre_hook(in_weight_dtype)


def without_extensions() -> None:
    """Idempotent. Must run before the first quantised weight is made."""
    from optimum.quanto.library.extensions import extension

    for ext in extension._extensions.values():
        ext._lib = SimpleNamespace(unpack=unpack)
    extension._extensions.pop("quanto_cuda", None)  # AWQ, Marlin: nvcc at run time, and see above


def unpack(packed: Tensor, bits: int) -> Tensor:
    """uint8 holding 8/bits values each -> that many times as many rows, lowest bits first.

    Division instead of a shift: quanto's authors found shifts missing on MPS.
    """
    mask = 2**bits - 1
    parts = [(packed // 2**low) & mask for low in range(0, 8, bits)]
    return torch.cat(parts).to(torch.uint8)


def in_weight_dtype(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook. Autocast does not reach quanto's own autograd functions, and layer norm
    hands them float32: PyTorch's int4 product then refuses ("expected Float, found BFloat16")."""
    return (args[0].to(module.weight.dtype), *args[1:])
