"""What a training step consists of, counted: operations, bytes that memory-bound kernels move,
kernels that the host starts, bytes over the link to host memory.

Operations are exact (tests compare them with torch's FlopCounterMode). Bytes and kernels of a block
were counted by a dispatch mode over one step of diffusers' blocks with peft's LoRA under autocast,
every operator's inputs and outputs once (tests/cpu/test_step_work.py counts them again). Text that
the last block drops, embedders and the loss are left out: less than 2 %.
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache

from sd3tune.plan.block_keeping import of_load, recomputed, recomputed_attention
from sd3tune.plan.lycoris_size import matched
from sd3tune.plan.memory import BYTES, Load, stored
from sd3tune.sd3.linears import Linear, is_modulating, linears
from sd3tune.sd3.variants import CLIP_TOKENS, Transformer

MULTIPLY_ADD = 2  # operations of one product and its sum
ATTENTION_BACKWARD = 2.5  # in forward passes: flash attention computes the scores again
TEXT = ("add_", "to_add_out", "ff_context", "context_embedder")  # layers that see text tokens
ONE_VECTOR = ("norm", "time_text_embed")  # layers that see a vector of each image


@dataclass(frozen=True)
class Pass:
    """Of one part of a block: bytes per token and hidden unit, and kernels."""

    forward_bytes: float
    backward_bytes: float
    forward_kernels: int
    backward_kernels: int


JOINT = Pass(132, 156, 57, 49)  # a block without qk-norm
QK_NORM = Pass(69, 173, 32, 60)  # what RMS norms of queries and keys add
DUAL = Pass(113, 239, 28, 42)  # a second attention, over image tokens
# A LoRA layer: bytes per token and input, per token and output; of dropout, per token and input.
LORA_INPUTS, LORA_OUTPUTS, DROPOUT = Pass(13, 18, 8, 10), Pass(8, 4, 0, 0), Pass(9, 9, 1, 1)
HALF_WITHOUT_AUTOCAST = 0.6  # of the bytes above, which are those of mixed formats
SCORES = Pass(24, 40, 0, 0)  # a score that attention writes out, in float32
CAST_BYTES = 6  # of a float32 weight under autocast, each pass
UPDATE_BYTES, UPDATE_KERNELS = 60, 12  # clipping and the optimizer, per value; kernels of a step
# Unpacking quantised weights, by scheme: bytes moved per weight and pass (reading the stored ones,
# writing those of the product, with copies on the way), and host seconds per layer and pass. The
# seconds were fitted to one H200 run each, where the host was the slower side.
UNPACKING = {
    "int8-quanto": (4.0, 240e-6),
    "fp8-quanto": (4.0, 240e-6),
    "nf4-bnb": (2.5, 380e-6),
    "int4-quanto": (20.0, 610e-6),
    "int2-quanto": (20.0, 610e-6),
}
# Compiled blocks: the bytes and kernels that are left where neighbouring kernels are fused. From
# published gains of DiT LoRA; not measured here.
COMPILED_BYTES, COMPILED_KERNELS = 0.45, 0.35


@dataclass(frozen=True)
class Forward:
    """Operations of one image's way through the transformer."""

    linear: int
    attention: int


@dataclass(frozen=True)
class Work:
    """Of one optimizer step on one device."""

    linear: float  # operations
    attention: float  # operations; a pass of its own rate
    moved: float  # bytes, by kernels that memory limits
    kernels: float
    host_seconds: float  # beyond the launches: unpacking called from Python
    linked: float  # bytes between host memory and device
    updated: float = 0.0  # bytes of long vectors: the optimizer's

    def times(self, factor: float) -> "Work":
        return Work(**{f.name: getattr(self, f.name) * factor for f in fields(self)})

    def plus(self, other: "Work") -> "Work":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Work(**sums)


@lru_cache(maxsize=64)
def forward(shape: Transformer, image_tokens: float, text_tokens: int) -> Forward:
    """text_tokens: of T5; CLIP's come on top."""
    text = text_tokens + CLIP_TOKENS
    linear = sum(
        MULTIPLY_ADD * layer.inputs * layer.outputs * seen_by(layer, image_tokens, text)
        for layer in linears(shape)
    )
    pairs = shape.layers * (image_tokens + text) ** 2 + shape.dual_layers * image_tokens**2
    return Forward(int(linear), int(2 * MULTIPLY_ADD * pairs * shape.hidden))


def seen_by(layer: Linear, image_tokens: float, text: float) -> float:
    """Tokens of one image that a layer computes."""
    name = layer.name.partition("transformer_blocks.")[2].partition(".")[2] or layer.name
    part = name.removeprefix("attn.")
    if part.startswith(ONE_VECTOR):
        return 1.0
    return text if part.startswith(TEXT) else image_tokens


@lru_cache(maxsize=64)
def adapted(
    shape: Transformer, targets: tuple[str, ...], image_tokens: float, text: float
) -> tuple[int, float, float]:
    """Of LoRA on these targets: its layers, and for one image the values that go into them and that
    come out of them."""
    layers = shape.targeted(targets) if targets else []
    seen = [seen_by(layer, image_tokens, text) for layer in layers]
    inputs = sum(s * layer.inputs for s, layer in zip(seen, layers, strict=True))
    outputs = sum(s * layer.outputs for s, layer in zip(seen, layers, strict=True))
    return len(layers), inputs, outputs


def step_work(shape: Transformer, load: Load, image_tokens: float | None = None) -> Work:
    """One optimizer step. image_tokens: of an image on average; None: of the largest bucket.

    A frozen layer needs the gradient of its input only, a trained one that of its weights too.
    Checkpointed blocks are computed twice.
    """
    tokens = load.tokens if image_tokens is None else image_tokens
    again = recomputed(shape, load)
    one = forward(shape, tokens, load.text_tokens)
    image = Work(
        linear=one.linear * (linear_passes(load) + linear_again(shape, load, tokens)),
        attention=one.attention * (1 + ATTENTION_BACKWARD + recomputed_attention(shape, load)),
        moved=_moved(shape, load, tokens, again),
        kernels=0,
        host_seconds=0,
        linked=_inputs_linked(shape, load, tokens),
    )
    each_pass = Work(
        linear=0,
        attention=0,
        moved=_weights_moved(shape, load, again),
        kernels=_kernels(shape, load, again),
        host_seconds=_unpacking_seconds(shape, load, again),
        linked=_blocks_linked(shape, load),
    )
    streamed = BYTES[load.base_dtype] * shape.modulating if load.modulations_off else 0
    update = Work(0, 0, 0, UPDATE_KERNELS, 0, streamed, UPDATE_BYTES * load.trained)
    passes = each_pass.times(load.accumulation)
    return image.times(load.images_of_step).plus(passes).plus(update)


def linear_passes(load: Load) -> int:
    """Forward passes that take as long as a linear layer's forward and backward pass."""
    return 3 if load.full else 2


def linear_again(shape: Transformer, load: Load, image_tokens: float) -> float:
    """Share of the operations of linear layers that are computed again in the backward pass.

    A block that is compiled with its checkpoint leaves out the last layer of its feed-forward
    networks, whose output no gradient needs, unless a gate trains that multiplies it.
    """
    again = recomputed(shape, load)
    if not load.compiled or gates_train(shape, load):
        return again
    last = last_layers(shape, image_tokens, load.text_tokens)
    keep = of_load(shape, load)
    return again - sum(share for share, what in zip(last, keep, strict=True) if what == "attention")


@lru_cache(maxsize=64)
def last_layers(shape: Transformer, image_tokens: float, text_tokens: int) -> tuple[float, ...]:
    """The last layers of the feed-forward networks of each block, as a share of the operations of
    all linear layers."""
    text = text_tokens + CLIP_TOKENS
    operations = [0.0] * shape.layers
    for layer in linears(shape):
        if layer.name.endswith(".net.2"):
            index = int(layer.name.split(".")[1])
            seen = seen_by(layer, image_tokens, text)
            operations[index] += MULTIPLY_ADD * layer.inputs * layer.outputs * seen
    every = forward(shape, image_tokens, text_tokens).linear
    return tuple(own / every for own in operations)


def gates_train(shape: Transformer, load: Load) -> bool:
    """Whether anything trains that the modulations come from."""
    if load.full:
        return True
    if load.lycoris is not None:
        return any(map(is_modulating, matched(shape, load.lycoris)))
    return _targets_modulate(shape, load.targets)


@lru_cache(maxsize=64)
def _targets_modulate(shape: Transformer, targets: tuple[str, ...]) -> bool:
    hit = (layer for layer in linears(shape) if any(map(layer.ends_in, targets)))
    return any(is_modulating(layer.name) for layer in hit)


def forward_work(shape: Transformer, load: Load, image_tokens: float) -> Work:
    """One image through the transformer without gradients, as the evaluation loss and pictures
    need it. Quantised weights are unpacked once."""
    one = forward(shape, image_tokens, load.text_tokens)
    single = replace(
        load, batch=1, accumulation=1, images=0, interval=0, keep=(), full=False, dropout=False
    )
    both = _moved(shape, single, image_tokens, 0.0)
    share = forward_share(shape)
    moved = share * both + _weights_moved(shape, single, 0.0) / 2
    kernels = share * _kernels(shape, single, 0.0)
    seconds = _unpacking_seconds(shape, single, 0.0) / 2
    return Work(one.linear, one.attention, moved, kernels, seconds, 0)


def forward_share(shape: Transformer) -> float:
    """Of the bytes of a block's forward and backward pass, those of the forward pass."""
    parts = (JOINT, QK_NORM) if shape.qk_norm else (JOINT,)
    ahead = sum(part.forward_bytes for part in parts)
    return ahead / (ahead + sum(part.backward_bytes for part in parts))


def _both(part: Pass, again: float) -> float:
    return part.forward_bytes * (1 + again) + part.backward_bytes


def _moved(shape: Transformer, load: Load, tokens: float, again: float) -> float:
    """Bytes of one image: of the blocks, LoRA and scores that are written out."""
    text = load.text_tokens + CLIP_TOKENS
    block = _both(JOINT, again) + (_both(QK_NORM, again) if shape.qk_norm else 0)
    total = shape.layers * (tokens + text) * shape.hidden * block
    total += shape.dual_layers * tokens * shape.hidden * _both(DUAL, again)
    _, inputs, outputs = adapted(shape, load.targets, tokens, text)
    each = _both(LORA_INPUTS, again) + (_both(DROPOUT, again) if load.dropout else 0)
    total += inputs * each + outputs * _both(LORA_OUTPUTS, again)
    if load.autocast is None and load.base_dtype != "fp32":
        total *= HALF_WITHOUT_AUTOCAST
    if load.compiled:
        total *= COMPILED_BYTES
    if load.scores or load.slices:
        scores = shape.layers * shape.scores(int(tokens + text))
        scores += shape.dual_layers * shape.scores(int(tokens))
        total += scores * _both(SCORES, 1.0 if load.slices else again)
    return total


def _weights_moved(shape: Transformer, load: Load, again: float) -> float:
    """Bytes of one batch: weights that autocast converts, and quantised ones that are unpacked."""
    total = 0.0
    if load.full and load.autocast is not None:
        total += CAST_BYTES * shape.parameters * (1 + again)
    if load.precision in UNPACKING:
        total += UNPACKING[load.precision][0] * shape.quantisable * (2 + again)
    return total


def _kernels(shape: Transformer, load: Load, again: float) -> float:
    def count(part: Pass) -> float:
        return part.forward_kernels * (1 + again) + part.backward_kernels

    block = count(JOINT) + (count(QK_NORM) if shape.qk_norm else 0)
    layers, _, _ = adapted(shape, load.targets, 1.0, 1.0)
    lora = layers * (count(LORA_INPUTS) + (count(DROPOUT) if load.dropout else 0))
    total = shape.layers * block + shape.dual_layers * count(DUAL) + lora
    return total * (COMPILED_KERNELS if load.compiled else 1.0)


def _unpacking_seconds(shape: Transformer, load: Load, again: float) -> float:
    if load.precision not in UNPACKING:
        return 0.0
    # Eight linear layers of attention and four of the feed-forward networks; the last block drops
    # its text.
    layers = 12 * shape.layers + 4 * shape.dual_layers - 3
    return UNPACKING[load.precision][1] * layers * (2 + again)


def _blocks_linked(shape: Transformer, load: Load) -> float:
    """Bytes of one pass over the link: swapped blocks come for the forward and for the backward
    pass."""
    total = 0
    for index in range(load.swapped):
        weights, quantisable = shape.block(index)
        weights -= shape.modulating_in(index) if load.modulations_off else 0
        total += 2 * stored(weights, quantisable, load.base_dtype, load.precision)
    return total


def _inputs_linked(shape: Transformer, load: Load, tokens: float) -> float:
    """Bytes of one image over the link: inputs of checkpointed blocks go and come back."""
    if not load.inputs_on_host:
        return 0.0
    values = (tokens + load.text_tokens + CLIP_TOKENS) * shape.hidden
    return 2 * values * BYTES[load.base_dtype] * recomputed(shape, load) * shape.layers
