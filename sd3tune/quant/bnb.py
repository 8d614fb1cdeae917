"""4-bit NormalFloat weights through bitsandbytes.

diffusers' own BitsAndBytesConfig refuses to run without a GPU; replacing the linears by hand works
on every device that bitsandbytes has kernels for, the CPU included.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sd3tune.quant.patterns import Patterns, matching
from sd3tune.tables.schemes import Scheme


def quantise(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, device: torch.device | None
) -> None:
    """Replaces the linears that `which` matches in place by Linear4bit with double quantisation.

    device: where a layer is quantised, one at a time; each returns to where it was. fp8: not used.
    """
    from bitsandbytes.nn import Params4bit

    for name in matching(module, which):
        linear = module.get_submodule(name)
        home = linear.weight.device
        small = _empty(linear, linear.weight.dtype)
        small.weight = Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", module=small
        )
        small.bias = linear.bias
        # Linear4bit packs its weight when it is moved, also from the CPU to the CPU.
        _put(module, name, small.to(device or home).to(home))
    _mark(module)


def restore(
    module: Any, scheme: Scheme, which: Patterns, fp8: str, state: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Gives a module on the meta device the weights of `state`, the state_dict of a module that
    `quantise` made. Answers with the keys that are missing and those nobody expects, as
    `load_state_dict` does. Raises KeyError."""
    names = matching(module, which)
    for name in names:
        _put(module, name, _restored(module.get_submodule(name), name, state))
    _mark(module)
    done = tuple(f"{name}.weight" for name in names)
    rest = {k: v for k, v in state.items() if not k.startswith(done)}
    missing, unexpected = module.load_state_dict(rest, strict=False, assign=True)
    return [k for k in missing if not k.startswith(done)], unexpected


def _restored(linear: Any, name: str, state: Mapping[str, Tensor]) -> Any:
    from bitsandbytes.nn import Params4bit

    prefix = f"{name}.weight"
    parts = {k[len(prefix) + 1 :]: v for k, v in state.items() if k.startswith(prefix + ".")}
    weight = Params4bit.from_prequantized(state[prefix], parts, device="cpu")
    small = _empty(linear, weight.quant_state.dtype)
    small.weight, small.quant_state = weight, weight.quant_state
    weight.module = small
    if small.bias is not None:
        small.bias = torch.nn.Parameter(state[f"{name}.bias"], requires_grad=False)
    return small


def dequantised(weight: Any) -> Tensor:
    """(out, in), in the dtype that was quantised."""
    from bitsandbytes.functional import dequantize_4bit

    made: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return made


def _empty(linear: Any, dtype: torch.dtype) -> Any:
    from sd3tune.quant.nf4_linear import Nf4Linear

    small = Nf4Linear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weight in evaluation mode and keeps
    # using that layout, which has no backward, when training goes on.
    small.support_avx512bf16_for_cpu = False
    return small


def _put(module: Any, name: str, part: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part)


def _mark(module: Any) -> None:
    """peft then uses its own 4-bit LoRA layer, whose merge is right."""
    module.is_loaded_in_4bit = True
