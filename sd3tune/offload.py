"""Block swapping: frozen weights of some blocks stay in host memory and are copied to the device
while the block computes.

Their frozen weights have one copy, on the host. Each forward pass of such a block, and the second
one that checkpointing makes in the backward pass, computes with copies on the device; they are gone
when nothing needs them any more. So nothing is ever written back, the step does not notice, and at
most one such block is on the device. Weights that train stay on the device.

Needs gradient checkpointing of these blocks: otherwise autograd keeps every copy until the backward
pass. Copies are made when they are needed and not ahead of time: slow on a slow bus, and free of
races. Untested on hardware.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune.plan.drawing import AnyPlan
from sd3tune.quant import dequantised
from sd3tune.quant.parts import is_nf4, moved

Copy = Callable[[Tensor], Tensor]
Held = dict[tuple[nn.Module, str], Tensor]


def move_to_device(model: Any, plan: AnyPlan, device: torch.device) -> None:
    """The model on its device, but for the frozen weights of the first `blocks_to_swap` blocks."""
    pin = plan.hardware.pin_memory.value
    for block in model.transformer_blocks[: plan.memory.blocks_to_swap.value]:
        host = (lambda t: t.cpu().pin_memory()) if pin else (lambda t: t.cpu())
        stream(block, host, lambda t: t.to(device, non_blocking=pin, copy=True))
    model.to(device)


def stream(block: nn.Module, to_host: Copy, to_device: Copy) -> None:
    """Takes the frozen weights out of `block`, and puts copies in their place whenever it runs.

    Between two runs the weights are None, so that moving the model does not move
    them. Both functions
    take one plain tensor; `to_device` must copy.
    """
    held = taken_out(block, to_host)
    forward = block.forward

    def visiting(*inputs: Any, **named: Any) -> Any:
        for (module, name), weight in held.items():
            module._parameters[name] = _parameter(moved(weight, to_device))
        try:
            return forward(*inputs, **named)
        finally:  # also when checkpointing has recomputed enough and stops
            for module, name in held:
                module._parameters[name] = None

    block.forward = visiting


def taken_out(block: nn.Module, to_host: Copy) -> Held:
    """Takes the frozen weights out of a block and returns them, as `to_host` copies them."""
    held: Held = {}
    for module in block.modules():
        for name, weight in list(module._parameters.items()):
            if weight is None or weight.requires_grad:
                continue
            if is_nf4(weight):
                module.forward = _nf4_product(module)
            held[module, name] = moved(weight, to_host)
            module._parameters[name] = None
    return held


def _nf4_product(linear: Any) -> Callable[[Tensor], Tensor]:
    """bitsandbytes' own product hides the weight from checkpointing: it keeps it in the graph until
    the backward pass (MatMul4Bit of 0.50.2). This one saves it where PyTorch sees it."""

    def forward(x: Tensor) -> Tensor:
        weight = dequantised(linear)
        bias = None if linear.bias is None else linear.bias.to(weight.dtype)
        return nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    return forward


def _parameter(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):  # bitsandbytes' are a subclass with more in it
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
