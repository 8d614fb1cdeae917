"""Gradient checkpointing: which blocks keep only their inputs, and where those inputs wait.

A checkpointed block keeps its inputs only and runs again in the backward pass, with the same
dropout: the gradients are those of a block that kept everything, bit for bit.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sd3tune.plan.plan import Plan
from sd3tune.train.inputs_on_host import InputsOnHost

Saving = Callable[[], AbstractContextManager[Any]]


def enable(model: Any, plan: Plan) -> None:
    """Sets gradient checkpointing as planned: off, or every n-th block, with its inputs on the
    device (`torch`) or on the host (`unsloth`)."""
    memory, hardware = plan.memory, plan.hardware
    if not memory.checkpointing.value:
        return
    saving: Saving = nullcontext
    if memory.checkpoint_backend.value == "unsloth":
        device = torch.device(hardware.device.torch_device)
        saving = InputsOnHost(device, pin=hardware.pin_memory.value)
    checkpoint_blocks(model, memory.interval.value, saving)


def checkpoint_blocks(model: Any, interval: int, saving: Saving = nullcontext) -> None:
    """Blocks 0, interval, 2 interval, … run through torch's checkpoint. saving: entered around it,
    so that it sees the block's inputs and nothing else; what is inside is not saved at all."""
    checkpointed = {id(block) for block in model.transformer_blocks[::interval]}

    def run(block: Any, *inputs: Any) -> Any:
        if id(block) not in checkpointed:
            return block(*inputs)
        with saving():
            return checkpoint(block, *inputs, use_reentrant=False)

    model.enable_gradient_checkpointing(gradient_checkpointing_func=run)
