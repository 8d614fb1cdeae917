"""4-bit NormalFloat weights through bitsandbytes.

diffusers' own BitsAndBytesConfig refuses to run without a GPU; replacing the linears by hand works
on every device that bitsandbytes has kernels for, the CPU included.
"""

from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn


def nf4(module: Any, which: tuple[tuple[str, ...], tuple[str, ...]], device: torch.device) -> None:
    """Replaces matching nn.Linear in place by Linear4bit with double quantisation."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    include, exclude = which
    for name, linear in list(module.named_modules()):
        if not isinstance(linear, nn.Linear) or not any(fnmatch(name, p) for p in include):
            continue
        if any(fnmatch(name, p) for p in exclude):
            continue
        small = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        small.weight = Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", module=small
        )
        small.bias = linear.bias
        # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weight in evaluation mode and
        # keeps using that layout, which has no backward, when training goes on.
        small.support_avx512bf16_for_cpu = False
        parent, _, leaf = name.rpartition(".")
        # Linear4bit packs its weight when it is moved, also from the CPU to the CPU.
        setattr(module.get_submodule(parent), leaf, small.to(device))
    # peft then uses its own 4-bit LoRA layer, whose merge is right.
    module.is_loaded_in_4bit = True
