"""Gradient checkpointing: which blocks forget their activations, and where their inputs wait.

A checkpointed block keeps its inputs only and runs again in the backward pass, with the same
dropout: the gradients are those of a block that kept everything, bit for bit.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from sd3tune.plan.resolve import Plan


def enable(model: Any, plan: Plan) -> None:
    """As planned: off, every n-th block, inputs on the device (`torch`) or on the host
    (`unsloth`)."""
    if plan.value("gradient_checkpointing") == "off":
        return
    place: Callable[[], AbstractContextManager[Any]] = nullcontext
    if plan.value("gradient_checkpointing_backend") == "unsloth":
        pin = plan.value("pin_memory") == "on"
        kind = plan.device.torch_device.partition(":")[0]
        place = lambda: save_on_cpu(pin_memory=pin, device_type=kind)  # noqa: E731
    checkpoint_blocks(model, plan.config.gradient_checkpointing_interval, place)


def checkpoint_blocks(
    model: Any, interval: int, place: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Blocks 0, interval, 2 interval, … run through torch's checkpoint. place: entered around it,
    so that it sees the block's inputs and nothing else; what is inside is not saved at all."""
    forgetful = {id(block) for block in model.transformer_blocks[::interval]}

    def run(block: Any, *inputs: Any) -> Any:
        if id(block) not in forgetful:
            return block(*inputs)
        with place():
            return checkpoint(block, *inputs, use_reentrant=False)

    model.enable_gradient_checkpointing(gradient_checkpointing_func=run)
