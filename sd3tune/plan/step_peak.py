"""Peak of activations and gradients in a training step, by walking through its blocks.

Forward, blocks keep what they save, or only their input where they are checkpointed. Backward, a
checkpointed block is computed again, what blocks kept is freed, and gradients appear. The peak is
the largest sum on the way. Per-operator terms are in block_bytes.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from sd3tune.backends.decide.limits import (
    DROPOUT_MASK_BYTES,
    FLOAT32_LAYER_NORMS,
    SLICE_VALUES,
)
from sd3tune.plan.block_bytes import (
    GELU_WIDTH,
    Adapted,
    BlockBytes,
    Format,
    adapted,
    image_bytes,
    text_bytes,
)
from sd3tune.plan.block_keeping import attention_bytes, of_load
from sd3tune.plan.lycoris_size import matched
from sd3tune.sd3.variants import CLIP_TOKENS, PATCH
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES

if TYPE_CHECKING:
    from sd3tune.plan.memory import Load
    from sd3tune.sd3.variants import Transformer

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
PASSING_SCORES = 2
SLICED_FLOATS = 10  # beside two slices of scores, per token and hidden unit: copies and gradients
# Float32 tensors of the size of the latents: latents, noise, their mixture, target and prediction.
LATENT_TENSORS = 5
# Copies of the largest weight in the format of products, while a quantised layer multiplies.
DEQUANTISED_COPIES = {
    "int8-quanto": 1.0, "fp8-quanto": 1.0, "int4-quanto": 1.5, "int2-quanto": 1.5, "nf4-bnb": 1.0,
}  # fmt: skip
ROUNDED_BYTES, ROUNDED_VALUES = 5, 2**24  # float32 and codes (kernels/eight_bits.CHUNK_VALUES)
# Optimizers with one kernel for all weights (backends/kernels/fused.py).
FUSED = tuple(f"torch.optim:{kind}" for kind in ("Adam", "AdamW", "SGD"))
OWN_UPDATE_FLOATS = 7  # float32 copies of one weight in AdamWBF16: moments, steps, random bits


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
    casts: int  # of its frozen weights, which autocast makes and the backward pass needs
    attention: int = 0  # outputs of attention that a checkpointed block keeps beside its input


def peak(shape: "Transformer", load: "Load", gradients: int) -> Peak:
    """The largest moment of a step. gradients: bytes of all gradients after the backward pass."""
    blocks = list(_blocks(shape, load))
    update = Peak(step_temporary(shape, load), gradients)
    moments = [*_forward(blocks, load, gradients), *_backward(blocks, load, gradients), update]
    largest = max(moments, key=lambda moment: moment.total)
    return Peak(largest.activations + step_inputs(shape, load), largest.gradients)


def _forward(blocks: list[Block], load: "Load", gradients: int) -> Iterator[Peak]:
    """The moment of each block in the forward pass. Gradients of an earlier batch of the same step
    exist already."""
    present = gradients if load.accumulation > 1 else 0
    live, trained, shared = 0, _casts(load), shares_casts(load)
    for number, block in enumerate(blocks, start=1):
        casts = trained if shared else trained * number // len(blocks)
        if block.checkpointed:
            yield Peak(live + block.input + block.forward + casts, present)
            live += _between(block, load)
        else:
            kept = block.kept + block.casts
            yield Peak(live + kept + block.forward + block.input + casts, present)
            live += kept


def _backward(blocks: list[Block], load: "Load", gradients: int) -> Iterator[Peak]:
    """The moment of each block in the backward pass, from the last block to the first."""
    live = sum(_between(block, load) for block in blocks)
    trained, form, shared = _casts(load), format_of(load), shares_casts(load)
    kept = sum(not block.checkpointed for block in blocks)  # whose casts the graph holds
    for done, block in enumerate(reversed(blocks)):
        present = gradients if load.accumulation > 1 else gradients * done // len(blocks)
        casts = trained * kept // len(blocks)
        if block.checkpointed:  # its input, and the gradient of its output
            input_ = block.input + (block.input if load.inputs_on_host else 0)
            input_ -= block.input if form.norm_saves_input else 0
            casts = trained if shared else casts + trained // len(blocks)
            again = block.kept - block.attention + block.forward
            yield Peak(live + input_ + again + casts + block.casts, present)
        else:
            yield Peak(live + block.backward + (trained if shared else casts), present)
            kept -= 1
        live -= _between(block, load)


def _between(block: Block, load: "Load") -> int:
    """What a block keeps between the passes."""
    if not block.checkpointed:
        return block.kept + block.casts
    return block.attention + (0 if load.inputs_on_host else block.input)


def _attending_only(shape: "Transformer", load: "Load") -> int:
    """Bytes of scores in a pass without gradients; 0 for fused kernels."""
    count = load.tokens + CLIP_TOKENS + load.text_tokens
    scores = load.batch * shape.scores(count)
    if load.scores:
        return 4 * PASSING_SCORES * scores
    slices = 2 * min(SLICE_VALUES, scores) + 2 * load.batch * count * shape.hidden
    return 4 * slices if load.slices else 0


def _casts(load: "Load") -> int:
    """Autocast's copies of all trained weights in its own format."""
    form = format_of(load)
    return load.trained * form.compute if form.compute < BYTES[load.trainable_dtype] else 0


def shares_casts(load: "Load") -> bool:
    """Whether all passes of a step share one copy of LoRA's weights in autocast's format
    (adapters/shared_casts.py). Not for DoRA, which uses them in other places as well; not where
    FSDP gathers weights for each pass, nor in compiled blocks, which cast in their graphs."""
    if load.full or load.lycoris is not None or load.dora:
        return False
    return not (load.sharded or load.compiled) and _casts(load) > 0


def format_of(load: "Load") -> Format:
    """Bytes of the values of activations."""
    compute = BYTES[load.base_dtype if load.autocast is None else load.autocast]
    if load.full and load.autocast is None:
        compute = BYTES[load.trainable_dtype]
    wide = load.autocast is not None and FLOAT32_LAYER_NORMS[load.vendor]
    mask = DROPOUT_MASK_BYTES[load.vendor] if load.dropout else 0
    trained = BYTES[load.trainable_dtype]
    inputs_kept = SCHEMES[load.precision].library == "optimum-quanto"
    norm, adapter = 4 if wide else compute, compute if load.autocast else trained
    return _format(compute, norm, mask, adapter, inputs_kept, trained)


@lru_cache(maxsize=64)  # asked for every block, of one load after another
def _format(
    compute: int, norm: int, mask: int, adapter: int, inputs_kept: bool, weight: int
) -> Format:
    """What the formula knows of the formats. All but inputs_kept: bytes of a number."""
    # Each LoRA layer makes its own copy of its input where normalised tokens are in another format
    # than its products, or its weights are, so that peft casts to theirs and autocast back.
    recast = norm != compute or weight != compute
    return Format(compute, norm, norm, mask, adapter, inputs_kept, weight, recast)


def step_temporary(shape: "Transformer", load: "Load") -> int:
    """Bytes that the optimizer's update needs beside its state. PyTorch's own update all weights at
    once: those with a fused kernel in place, the others with a copy of them. Ours goes weight by
    weight."""
    build = OPTIMIZERS[load.optimizer].build
    if build in FUSED:
        return 0
    if build.startswith("torch.optim"):
        return 4 * load.trained
    if build.startswith("sd3tune"):
        largest = (9 if shape.dual_layers else 6) * shape.hidden**2 if load.full else 0
        return OWN_UPDATE_FLOATS * 4 * largest
    return 0


def _dequantised(shape: "Transformer", load: "Load") -> int:
    """Bytes of the largest weight of a block while it is multiplied, in the format of products; of
    layers that multiply in 8 bits, those of the rows that are rounded at once."""
    if SCHEMES[load.precision].multiplies:
        rows = load.batch * load.tokens * 4 * shape.hidden
        return ROUNDED_BYTES * min(ROUNDED_VALUES, rows)
    copies = DEQUANTISED_COPIES.get(load.precision, 0)
    return int(copies * 4 * shape.hidden**2 * format_of(load).compute)


def _blocks(shape: "Transformer", load: "Load") -> Iterator[Block]:
    form, passing = format_of(load), _dequantised(shape, load)
    names = load.targets if load.lycoris is None else tuple(matched(shape, load.lycoris))
    for index, keep in enumerate(of_load(shape, load)):
        here = names if load.lycoris is None else _inside(names, index)
        own, image, text = _streams(shape, index, here, load.full, load.dora, load.rank, form)
        kept_scores = whole_scores(shape, load, index) if load.scores else 0
        # What attention needs for a moment, when what follows it has not been saved yet, or is
        # freed already.
        late = int(load.batch * load.tokens * image.late)
        attending = attention_passing(shape, load, index) - late
        both = _both(load, image, text)
        yield replace(
            both,
            kept=both.kept + kept_scores + _scaled_weights(load, own, index),
            forward=max(both.forward + passing, attending),
            backward=max(both.backward + passing, attending),
            checkpointed=keep != "everything",
            attention=_attention_kept(shape, load, index) if keep == "attention" else 0,
            casts=_weight_casts(shape, load, index),
        )


@lru_cache(maxsize=512)  # asked for every block, of one load after another
def _streams(
    shape: "Transformer",
    index: int,
    names: tuple[str, ...],
    full: bool,
    dora: bool,
    rank: int,
    form: Format,
) -> tuple[Adapted, BlockBytes, BlockBytes]:
    """What trains in a block, and the bytes of a token of an image and of a text."""
    own = adapted(shape, index, names, full=full, dora=dora)
    image = image_bytes(shape, index, own, rank, form)
    return own, image, text_bytes(shape, index, own, rank, form)


def _attention_kept(shape: "Transformer", load: "Load", index: int) -> int:
    pixel, word = attention_bytes(shape, index, format_of(load).compute)
    words = CLIP_TOKENS + load.text_tokens
    return int(load.batch * (load.tokens * pixel + words * word))


def _inside(names: tuple[str, ...], index: int) -> tuple[str, ...]:
    block = f"transformer_blocks.{index}."
    return tuple(n for n in names if n.startswith((block, "time_text_embed")))


def _scaled_weights(load: "Load", own: Adapted, index: int) -> int:
    """Weights as the products need them: DoRA scales columns of the weight, and LyCORIS adds to it,
    so that the backward pass keeps a copy in the format of products."""
    copies = load.lycoris is not None or (own.dora and index > 0)
    return own.values * format_of(load).compute if copies else 0


def _weight_casts(shape: "Transformer", load: "Load", index: int) -> int:
    """Copies of frozen float32 weights in autocast's format. Of weights that train, `_casts`."""
    if load.full or load.autocast is None or BYTES[load.base_dtype] == BYTES[load.autocast]:
        return 0
    _, quantisable = shape.block(index)
    return quantisable * BYTES[load.autocast] if not SCHEMES[load.precision].quantises else 0


def _both(load: "Load", image: BlockBytes, text: BlockBytes) -> Block:
    """A batch of both streams: the image's is the one that peaks."""
    words = load.batch * (CLIP_TOKENS + load.text_tokens)
    pixels = load.batch * load.tokens
    return Block(
        kept=int(pixels * image.kept + words * text.kept),
        forward=int(pixels * image.forward + words * text.forward),
        backward=int(pixels * image.backward + words * text.backward),
        input=int(pixels * image.input + words * text.input),
        checkpointed=False,
        casts=0,
    )


def step_inputs(shape: "Transformer", load: "Load") -> int:
    """The batch itself: tensors of the size of the latents, and the captions twice, as they are
    read and in the format of the weights. Images of the evaluation stay on the device."""
    latents = shape.channels * PATCH**2 * load.tokens * 4
    words = (CLIP_TOKENS + load.text_tokens) * shape.joint_dim
    batch = LATENT_TENSORS * latents + words * (4 + BYTES[load.base_dtype])
    return load.batch * batch + resident_inputs(shape, load)


def resident_inputs(shape: "Transformer", load: "Load") -> int:
    """Latents and captions of the evaluation's images."""
    latents = shape.channels * PATCH**2 * load.tokens
    return load.resident * 4 * (latents + (CLIP_TOKENS + load.text_tokens) * shape.joint_dim)


def forward_only(shape: "Transformer", load: "Load") -> int:
    """Bytes of a pass without gradients, beside what stays on the device: one block at a time. At
    GELU, or in a second attention, there are: the stream before the block and in it, what the
    attention gave with and without its gate, the normalised tokens, and the layer's own tensors."""
    form, h = format_of(load), shape.hidden
    c, dual = form.compute, shape.dual_layers > 0
    feed_forward = (4 + 2 * GELU_WIDTH + dual) * c + form.normed
    second = 2 * form.normed + 10 * c + (4 if form.half and shape.qk_norm else 0) if dual else 0
    words = load.batch * (CLIP_TOKENS + load.text_tokens)
    tokens = load.batch * load.tokens
    moving = h * (max(feed_forward, second) * tokens + 5 * c * words)
    attending = _attending_only(shape, load)
    attending += h * (tokens + words) * (form.normed + 12 * c) if attending else 0
    inputs = words * shape.joint_dim * BYTES[load.base_dtype]
    passing = max(_dequantised(shape, load), _weight_casts(shape, load, 0) // 4)
    return int(max(moving + passing, attending) + inputs + _casts(load))


def attention_passing(shape: "Transformer", load: "Load", index: int) -> int:
    """Bytes of scores that one attention needs beside what its block keeps; 0 for fused kernels.
    The backward pass frees the scores of a block's second attention before it needs the first."""
    count = load.tokens + CLIP_TOKENS + load.text_tokens
    if not load.scores:
        return slices(shape, load) if load.slices else 0
    joint = 4 * load.batch * PASSING_SCORES * shape.scores(count)
    if index >= shape.dual_layers:
        return joint
    second = 4 * load.batch * shape.scores(load.tokens)
    return max(PASSING_SCORES * second, joint - second)


def whole_scores(shape: "Transformer", load: "Load", index: int) -> int:
    """Bytes of attention scores that a block keeps for the backward pass, in float32 for every
    format of the weights: one matrix for each of its attentions."""
    every = shape.scores(load.tokens + CLIP_TOKENS + load.text_tokens)
    images = shape.scores(load.tokens) if index < shape.dual_layers else 0
    return 4 * load.batch * (every + images)


def slices(shape: "Transformer", load: "Load") -> int:
    """Bytes of the slices of sliced attention, in float32. One attention computes at a time, and no
    slice is kept for the backward pass."""
    count = load.tokens + CLIP_TOKENS + load.text_tokens
    passing = PASSING_SCORES * min(SLICE_VALUES, load.batch * shape.scores(count))
    return 4 * (passing + SLICED_FLOATS * load.batch * count * shape.hidden)
