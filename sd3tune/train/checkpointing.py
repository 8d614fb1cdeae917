"""Gradient checkpointing: what each block keeps for the backward pass, and where its inputs wait.

A checkpointed block keeps its inputs, or these and the outputs of its attention, and runs again in
the backward pass, with the same dropout: the gradients are those of a block that kept everything,
bit for bit.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sd3tune.plan.block_keeping import Keep, at_interval
from sd3tune.plan.plan import Plan
from sd3tune.sd3.kept_attention import keep_attention
from sd3tune.train.inputs_on_host import InputsOnHost

Saving = Callable[[], AbstractContextManager[Any]]


def enable(model: Any, plan: Plan) -> None:
    """Sets gradient checkpointing as planned, with the inputs of checkpointed blocks on the device
    (`torch`) or on the host (`unsloth`)."""
    memory, hardware = plan.memory, plan.hardware
    keep = outside(memory.keep.value) if hardware.compiler.value else memory.keep.value
    if set(keep) == {"everything"}:
        return
    saving: Saving = nullcontext
    if memory.checkpoint_backend.value == "unsloth":
        device = torch.device(hardware.device.torch_device)
        saving = InputsOnHost(device, pin=hardware.pin_memory.value)
    keep_in_blocks(model, keep, saving)


def outside(keep: Sequence[Keep]) -> tuple[Keep, ...]:
    """What is left to keep outside of compiled blocks: those that keep the outputs of attention
    were compiled with their checkpoint (train/compiling.py)."""
    return tuple("everything" if what == "attention" else what for what in keep)


def checkpoint_blocks(model: Any, interval: int, saving: Saving = nullcontext) -> None:
    """Blocks 0, interval, 2 interval, … run through torch's checkpoint."""
    keep_in_blocks(model, at_interval(len(model.transformer_blocks), interval), saving)


def no_passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the two passes of a block that keeps its inputs alone."""
    return nullcontext(), nullcontext()


def keep_in_blocks(model: Any, keep: Sequence[Keep], saving: Saving = nullcontext) -> None:
    """Each block keeps what `keep` says; but for `everything`, it runs through torch's checkpoint.
    saving: entered around it, so that it sees the block's inputs and nothing else; what is inside
    is not saved at all."""
    of_block = dict(zip(map(id, model.transformer_blocks), keep, strict=True))
    kept = keep_attention(model) if "attention" in keep else None

    def run(block: Any, *inputs: Any) -> Any:
        what = of_block[id(block)]
        if what == "everything":
            return block(*inputs)
        passes = kept.passes if kept is not None and what == "attention" else no_passes
        with saving():
            return checkpoint(block, *inputs, use_reentrant=False, context_fn=passes)

    model.enable_gradient_checkpointing(gradient_checkpointing_func=run)
