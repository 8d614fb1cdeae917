"""Peak of activations and gradients in a training step, by walking through its blocks.

Forward, blocks keep what they save, or only their input where they are checkpointed. Backward, a
checkpointed block is computed again, what blocks kept is freed, and gradients appear. The peak is
the largest sum on the way. Per-operator terms are in block_bytes.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sd3tune.backends.decide.limits import (
    DROPOUT_MASK_BYTES,
    FLOAT32_LAYER_NORMS,
    SLICE_VALUES,
)
from sd3tune.plan.block_bytes import BlockBytes, Format, adapted, image_bytes, text_bytes
from sd3tune.plan.block_keeping import attention_bytes, of_load
from sd3tune.sd3.variants import CLIP_TOKENS, PATCH

if TYPE_CHECKING:
    from sd3tune.plan.memory import Load
    from sd3tune.sd3.variants import Transformer

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
PASSING_SCORES = 2
SLICED_FLOATS = 10  # beside two slices of scores, per token and hidden unit: copies and gradients
# Float32 tensors of the size of the latents: latents, noise, their mixture, target and prediction.
LATENT_TENSORS = 5


@dataclass(frozen=True)
class Peak:
    """Bytes at the largest moment of a step. gradients: those that exist at that moment."""

    activations: int
    gradients: int

    @property
    def total(self) -> int:
        return self.activations + self.gradients


@dataclass(frozen=True)
class Block:
    """Bytes of one block of one batch."""

    kept: int
    forward: int
    backward: int
    input: int
    checkpointed: bool
    attention: int = 0  # outputs of attention that a checkpointed block keeps beside its input


def peak(shape: "Transformer", load: "Load", gradients: int) -> Peak:
    """The largest moment of a step. gradients: bytes of all gradients after the backward pass."""
    blocks = list(_blocks(shape, load))
    moments = [*_forward(blocks, load, gradients), *_backward(blocks, load, gradients)]
    largest = max(moments, key=lambda moment: moment.total)
    beside = step_inputs(shape, load) + scores(shape, load)
    return Peak(largest.activations + beside, largest.gradients)


def _forward(blocks: list[Block], load: "Load", gradients: int) -> Iterator[Peak]:
    """The moment of each block in the forward pass. Gradients of an earlier batch of the same step
    exist already."""
    present = gradients if load.accumulation > 1 else 0
    live = 0
    for number, block in enumerate(blocks, start=1):
        casts = _casts(load) * number // len(blocks)
        if block.checkpointed:
            yield Peak(live + block.input + block.forward + casts, present)
            live += _between(block, load)
        else:
            yield Peak(live + block.kept + block.forward + block.input + casts, present)
            live += block.kept


def _backward(blocks: list[Block], load: "Load", gradients: int) -> Iterator[Peak]:
    """The moment of each block in the backward pass, from the last block to the first."""
    live = sum(_between(block, load) for block in blocks)
    kept = sum(not block.checkpointed for block in blocks)  # whose casts the graph holds
    for done, block in enumerate(reversed(blocks)):
        present = gradients if load.accumulation > 1 else gradients * done // len(blocks)
        casts = _casts(load) * kept // len(blocks)
        if block.checkpointed:  # its input, and the gradient of its output
            input_ = 2 * block.input if load.inputs_on_host else block.input
            casts += _casts(load) // len(blocks)
            again = block.kept - block.attention + block.forward
            yield Peak(live + input_ + again + casts, present)
        else:
            yield Peak(live + block.backward + casts, present)
            kept -= 1
        live -= _between(block, load)


def _between(block: Block, load: "Load") -> int:
    """What a block keeps between the passes."""
    if not block.checkpointed:
        return block.kept
    return block.attention + (0 if load.inputs_on_host else block.input)


def _casts(load: "Load") -> int:
    """Autocast's copies of all trained weights in its own format."""
    form = format_of(load)
    return load.trained * form.compute if form.compute < BYTES[load.trainable_dtype] else 0


def format_of(load: "Load") -> Format:
    """Bytes of the values of activations."""
    compute = BYTES[load.base_dtype if load.autocast is None else load.autocast]
    if load.full and load.autocast is None:
        compute = BYTES[load.trainable_dtype]
    wide = load.autocast is not None and FLOAT32_LAYER_NORMS[load.vendor]
    norm = 4 if wide else compute
    mask = DROPOUT_MASK_BYTES[load.vendor] if load.dropout else 0
    return Format(compute, saved_norm=norm, normed=norm, mask=mask)


def _blocks(shape: "Transformer", load: "Load") -> Iterator[Block]:
    form = format_of(load)
    for index, keep in enumerate(of_load(shape, load)):
        own = adapted(shape, index, load.targets, load.full)
        image = image_bytes(shape, index, own, load.rank, form)
        text = text_bytes(shape, index, own, load.rank, form)
        block = _both(load, image, text, checkpointed=keep != "everything")
        outputs = attention_bytes(shape, index, form.compute) if keep == "attention" else (0, 0)
        pixels, words = load.tokens * outputs[0], (CLIP_TOKENS + load.text_tokens) * outputs[1]
        yield replace(block, attention=int(load.batch * (pixels + words)))


def _both(load: "Load", image: BlockBytes, text: BlockBytes, *, checkpointed: bool) -> Block:
    """A batch of both streams: the image's is the one that peaks."""
    words = load.batch * (CLIP_TOKENS + load.text_tokens)
    pixels = load.batch * load.tokens
    return Block(
        kept=int(pixels * image.kept + words * text.kept),
        forward=int(pixels * image.forward + words * text.forward),
        backward=int(pixels * image.backward + words * text.backward),
        input=int(pixels * image.input + words * text.input),
        checkpointed=checkpointed,
    )


def step_inputs(shape: "Transformer", load: "Load") -> int:
    """The batch itself: tensors of the size of the latents, and the captions twice, as they are
    read and in the format of the weights."""
    latents = shape.channels * PATCH**2 * load.tokens * 4 * LATENT_TENSORS
    words = CLIP_TOKENS + load.text_tokens
    return load.batch * (latents + words * shape.joint_dim * (4 + BYTES[load.base_dtype]))


def scores(shape: "Transformer", load: "Load") -> int:
    """Bytes of attention that writes out its scores, whole or in slices; 0 for fused kernels."""
    kept = whole_scores(shape, load) if load.scores else 0
    return kept + (slices(shape, load) if load.slices else 0)


def whole_scores(shape: "Transformer", load: "Load") -> int:
    """Bytes of attention scores, in float32 for every format of the weights. Each attention keeps
    one matrix for the backward pass (a checkpointed block only while it is recomputed), and one
    attention at a time needs two more."""
    forgetful = sum(keep != "everything" for keep in of_load(shape, load))
    blocks = shape.layers - forgetful + min(forgetful, 1)
    every = shape.scores(load.tokens + CLIP_TOKENS + load.text_tokens)
    images = shape.scores(load.tokens)  # of the second attention of some blocks
    kept = blocks * every + min(blocks, shape.dual_layers) * images
    return 4 * load.batch * (kept + PASSING_SCORES * every)


def slices(shape: "Transformer", load: "Load") -> int:
    """Bytes of the slices of sliced attention, in float32. One attention computes at a time, and no
    slice is kept for the backward pass."""
    count = load.tokens + CLIP_TOKENS + load.text_tokens
    passing = PASSING_SCORES * min(SLICE_VALUES, load.batch * shape.scores(count))
    return 4 * (passing + SLICED_FLOATS * load.batch * count * shape.hidden)
