"""optimum-quanto's integer and float8 weights, called directly.

diffusers' QuantoConfig is deprecated for 1.0 and cannot exclude norm1.linear. Two parts of quanto
0.2.7 are replaced:

* unpacking int4 and int2 (a C++, CUDA, HIP or Metal extension that needs a compiler at first use
  and writes into site-packages): four lines of PyTorch, bit-equal
* the choice of kernels by device and dtype. Marlin (fp8) drops the bias of every linear, AWQ (int4,
  fp16) wants nvcc at run time, TinyGemm (int4, bf16) rounds the shifts once more whenever a weight
  is moved or saved and takes bf16 input only. Without them quanto multiplies by the dequantised
  weight: the product whose gradient is exact, on every device

Look again at quanto 0.2.8.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sd3tune.quant.patterns import Patterns
from sd3tune.tables.schemes import Scheme


def quantise(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, device: torch.device | None
) -> None:
    """Quantises a module in place: its weights become frozen quantised tensors on the same device.

    device: where a layer is quantised, one at a time. fp8: torch's name of the chip's flavour.
    """
    for part in replaced(module, scheme, which, fp8):
        home = part.weight.device
        with torch.no_grad():
            part.weight = torch.nn.Parameter(part.weight.to(device or home), requires_grad=False)
            part.weight = torch.nn.Parameter(part.qweight.to(home), requires_grad=False)


def restore(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, state: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Gives a module on the meta device the weights of `state`, the state_dict of a module that
    `quantise` made. Answers with the keys that are missing and those nobody expects, as
    `load_state_dict` does."""
    replaced(module, scheme, which, fp8)
    # strict does not know the parts of quanto's weights; what is missing stays on meta
    missing, unexpected = module.load_state_dict(dict(state), strict=False, assign=True)
    return missing, unexpected


def replaced(module: Any, scheme: Scheme, which: Patterns, fp8: str) -> list[Any]:
    """The linears that `which` matches, replaced by quanto's, with their weights as they were."""
    import optimum.quanto as quanto

    without_kernels()
    weights = scheme.weights
    if weights == "qfloat8":  # the chip's flavour of it
        weights = "qfloat8_e4m3fnuz" if fp8.endswith("fnuz") else "qfloat8_e4m3fn"
    include, exclude = which
    quanto.quantize(
        module, weights=getattr(quanto, weights), include=list(include), exclude=list(exclude)
    )
    parts = [part for part in module.modules() if isinstance(part, quanto.QLinear)]
    for part in parts:
        part.register_forward_pre_hook(in_weight_dtype)
    return parts


def without_kernels() -> None:
    """Idempotent. Must run before the first quantised weight is made or moved."""
    from optimum.quanto.library.extensions import extension
    from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor

    for ext in extension._extensions.values():
        ext._lib = SimpleNamespace(unpack=unpack)
    extension._extensions.pop("quanto_cuda", None)
    for kind in (WeightQBitsTensor, WeightQBytesTensor):
        kind.create = staticmethod(kind)  # where the kernel would be chosen
        kind.optimize = lambda weight: weight  # would unpack and pack again on the way there


def unpack(packed: Tensor, bits: int) -> Tensor:
    """uint8 holding 8/bits values each -> that many times as many rows, lowest bits first.

    Division instead of a shift: quanto's authors found shifts missing on MPS.
    """
    mask = 2**bits - 1
    parts = [(packed // 2**low) & mask for low in range(0, 8, bits)]
    return torch.cat(parts).to(torch.uint8)


def in_weight_dtype(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook. Autocast does not reach quanto's own autograd functions, and layer norm
    hands them float32, which does not multiply with bf16. A view is copied: the CPU's int8 product
    in bf16 refuses it (aten::_weight_int8pack_mm, torch 2.13)."""
    return (args[0].to(module.weight.dtype).contiguous(), *args[1:])
