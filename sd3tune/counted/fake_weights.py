"""A transformer of the planned shape whose weights are fake: quantised layers included.

It is built on the meta device by the same classes that train, and then every tensor becomes a fake
one in the device's memory. Quantised weights are the libraries' own tensors around fake parts, one
entry for each library.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.backends.kernels.eight_bits import RowScaled
from sd3tune.quant import bnb, quanto, w8a8
from sd3tune.quant.parts import is_nf4, moved, moved_state
from sd3tune.quant.patterns import matching
from sd3tune.sd3.variants import PATCH, Transformer
from sd3tune.tables.schemes import SCHEMES, Scheme

GROUP = 128  # values that share a scale in quanto's 4 and 2 bits
NF4_BLOCK, NESTED_BLOCK = 64, 256  # values that share a scale; scales that share one


def blank(shape: Transformer, dtype: torch.dtype) -> Any:
    """SD3Transformer2DModel of that shape on the meta device, frozen."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128,
            patch_size=PATCH,
            in_channels=shape.channels,
            out_channels=shape.channels,
            num_layers=shape.layers,
            attention_head_dim=shape.head_dim,
            num_attention_heads=shape.heads,
            joint_attention_dim=shape.joint_dim,
            caption_projection_dim=shape.hidden,
            pooled_projection_dim=shape.pooled_dim,
            pos_embed_max_size=shape.positions,
            dual_attention_layers=tuple(range(shape.dual_layers)),
            qk_norm="rms_norm" if shape.qk_norm else None,
        )
    nn.Module.to(model, dtype)  # ModelMixin would print a warning
    return model.requires_grad_(False)


def quantise(
    model: Any,
    scheme: str,
    fp8: str = "float8_e4m3fn",
    which: quant.Patterns = quant.TRANSFORMER,
) -> None:
    """Gives a module on the meta device weights of the scheme, without arithmetic."""
    row = SCHEMES[scheme]
    if row.quantises:
        FORMS[row.library](model, row, fp8, which)
        model.requires_grad_(False)


def _quanto(model: Any, row: Scheme, fp8: str, which: quant.Patterns) -> None:
    for part in quanto.replaced(model, row, which, fp8):
        part.weight = nn.Parameter(_quanto_weight(part.weight, row, fp8), requires_grad=False)


def _quanto_weight(weight: Tensor, row: Scheme, fp8: str) -> Tensor:
    from optimum.quanto import qtypes
    from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor
    from optimum.quanto.tensor.packed import PackedTensor

    size, stride = weight.size(), weight.stride()
    new = weight.new_empty
    if row.weights == "qfloat8":
        name = "qfloat8_e4m3fnuz" if fp8.endswith("fnuz") else "qfloat8_e4m3fn"
    else:
        name = row.weights
    kind = qtypes[name]
    if kind.bits == 8:
        data = new(size, dtype=kind.dtype)
        one: Tensor = WeightQBytesTensor(kind, 0, size, stride, data, new(size[0], 1), None)
        return one
    groups = weight.numel() // GROUP
    packed = new(GROUP * kind.bits // 8, groups, dtype=torch.uint8)
    inner = PackedTensor(packed, kind.bits, torch.Size((GROUP, groups)), (groups, 1))
    scale, shift = new(1, groups), new(1, groups)
    several: Tensor = WeightQBitsTensor(kind, 0, GROUP, size, stride, inner, scale, shift)
    return several


def _bitsandbytes(model: Any, row: Scheme, fp8: str, which: quant.Patterns) -> None:
    for name in matching(model, which):
        linear = model.get_submodule(name)
        small = bnb._empty(linear, linear.weight.dtype)
        small.weight, small.bias = _nf4_weight(linear.weight, small), linear.bias
        small.quant_state = small.weight.quant_state
        bnb._put(model, name, small)
    bnb._mark(model)


def _nf4_weight(weight: Tensor, module: Any) -> Any:
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    new, blocks = weight.new_empty, -(-weight.numel() // NF4_BLOCK)
    nested = QuantState(
        absmax=new(-(-blocks // NESTED_BLOCK), dtype=torch.float32),
        code=new(256, dtype=torch.float32),
        blocksize=NESTED_BLOCK,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=new(blocks, dtype=torch.uint8),
        shape=weight.shape,
        code=new(16, dtype=torch.float32),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=new((), dtype=torch.float32),
        state2=nested,
    )
    return Params4bit(
        new(weight.numel() // 2, 1, dtype=torch.uint8),
        requires_grad=False,
        quant_state=state,
        blocksize=NF4_BLOCK,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.uint8,
        module=module,
        bnb_quantized=True,
    )


def _rounded(model: Any, row: Scheme, fp8: str, which: quant.Patterns) -> None:
    dtype = w8a8.format_of(row, fp8)
    for name in matching(model, which):
        linear = model.get_submodule(name)
        weight = linear.weight
        codes = weight.new_empty(weight.shape, dtype=dtype)
        scale = weight.new_empty(weight.shape[0], 1, dtype=torch.float32)
        lost = weight.new_empty(weight.shape[1], dtype=torch.float32)
        rows = RowScaled(codes, scale)
        model.set_submodule(name, w8a8.W8A8Linear(rows, lost, linear.bias, weight.dtype))


FORMS: dict[str, Callable[[Any, Scheme, str, quant.Patterns], None]] = {
    "optimum-quanto": _quanto,
    "bitsandbytes": _bitsandbytes,
    "torch": _rounded,
}


def in_memory(model: nn.Module, place: Callable[[Tensor], Tensor]) -> None:
    """Replaces every parameter and buffer by what `place` makes of its parts, shared ones once."""
    done: dict[int, Any] = {}

    def placed(tensor: Tensor) -> Any:
        if id(tensor) not in done:
            rebuilt = _nf4_placed(tensor, place) if is_nf4(tensor) else moved(tensor, place)
            if isinstance(tensor, nn.Parameter) and not isinstance(rebuilt, nn.Parameter):
                rebuilt = nn.Parameter(rebuilt, requires_grad=tensor.requires_grad)
            done[id(tensor)] = rebuilt
        return done[id(tensor)]

    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = placed(parameter)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = placed(buffer)


def _nf4_placed(tensor: Any, place: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """bitsandbytes' class cannot hold a fake tensor: a plain parameter with the same parts, which
    its linear layer takes as well."""
    weight = nn.Parameter(place(tensor.data), requires_grad=False)
    weight.quant_state = moved_state(tensor.quant_state, place)  # type: ignore[attr-defined]
    return weight
