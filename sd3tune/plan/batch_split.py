"""A batch in parts: some images at a time go through both passes, and their gradients are added.

The loss of a step is the mean over all images of it, and the noise of an image does not depend on
its batch, so that losses and gradients are those of the whole batch up to float32 rounding. Where
LoRA drops inputs, other ones are dropped, as in any other layout of the batch. A part needs less
memory, so that its blocks may keep more; each part starts all kernels and unpacks all weights
again.
"""

from collections.abc import Iterator
from dataclasses import replace

from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load

NAME = "batch_split"


def is_open(config: Config) -> bool:
    """The number of parts is left to the plan. FSDP gathers weights in every pass, and processes
    must make as many passes as the others, so that its batches stay whole."""
    return config.batch_split is None and not config.fsdp_enable


def in_parts(load: Load, parts: int) -> Load:
    """The load of a whole batch, computed in so many parts or, where images are fewer, in single
    images."""
    size = -(-load.batch // parts)
    if size == load.batch:
        return load
    passes = load.accumulation * -(-load.batch // size)
    return replace(load, batch=size, accumulation=passes, images=load.images_of_step)


def every_split(load: Load) -> Iterator[Load]:
    """The load of a whole batch, whole and with each smaller part."""
    sizes = {-(-load.batch // parts) for parts in range(1, load.batch + 1)}
    for size in sorted(sizes, reverse=True):
        yield in_parts(load, -(-load.batch // size))


def whole(load: Load, accumulation: int) -> Load:
    """The load of the same batches, not split. accumulation: batches of one step."""
    images = images_of_batch(load, accumulation)
    return replace(load, batch=images, accumulation=accumulation, images=0)


def images_of_batch(load: Load, accumulation: int) -> int:
    """Images of a batch, whatever its parts."""
    return load.images_of_step // accumulation


def smallest_part(load: Load) -> Load:
    """One image at a time."""
    return in_parts(load, load.batch)


def split_decision(inputs: RunInputs, load: Load, reason: str) -> Decision[int]:
    """The number of parts of a batch. load: as it was chosen. reason: of the choice, with its
    numbers."""
    config = inputs.config
    batch = images_of_batch(load, config.gradient_accumulation_steps)
    parts = -(-batch // load.batch)
    if config.batch_split is not None:
        why = "set in the configuration"
        if parts < config.batch_split:
            why = f"{why}; {batch} images make no more parts"
        return Decision(parts, config.source(NAME), why)
    if parts == 1:
        return Decision(1, AUTO, "each batch is computed at once")
    return Decision(parts, AUTO, f"{load.batch} of {batch} images at a time: {reason}")
