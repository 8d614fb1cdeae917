"""Bytes of the activations of one transformer block, operator by operator.

Each term names the tensor that an operator saves for the backward pass, or that is alive beside the
saved ones when memory peaks. The terms are per token and hidden unit unless they say otherwise, and
follow diffusers' JointTransformerBlock (0.42) and peft's LoRA layer. `counted/` counts the same
tensors in a step of the real model, and tests compare the two.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sd3tune.sd3.linears import linears

if TYPE_CHECKING:
    from sd3tune.sd3.variants import Transformer

GELU_WIDTH = 4  # hidden units of the feed-forward layer, relative to those of the block
INPUT_LAYERS = ("to_q", "to_k", "to_v")  # linear layers that share the normalised tokens
TEXT_LAYERS = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
MODULATIONS = ("norm1", "norm1_context", "time_text_embed")


@dataclass(frozen=True)
class Format:
    """Bytes of one value. compute: where products are computed (autocast's format, else that of the
    weights). saved_norm: what a layer norm saves of its input. normed: what it returns. mask: of
    dropout's mask; 0 without dropout. adapter: where LoRA multiplies. inputs_kept: quantised layers
    keep a copy of their input (quanto's products do). weight: of a weight that trains. recast: LoRA
    layers copy their inputs into another format."""

    compute: int
    saved_norm: int
    normed: int
    mask: int
    adapter: int
    inputs_kept: bool = False
    weight: int = 4
    recast: bool = True

    @property
    def half(self) -> bool:
        """Products in 16 bits: float32 operators beside them need copies."""
        return self.compute == 2

    @property
    def norm_saves_input(self) -> bool:
        """Whether a layer norm saves the stream itself, and not a copy in another format."""
        return self.compute == self.saved_norm


@dataclass(frozen=True)
class Adapted:
    """What trains in one block. image, text: input widths of the adapted linear layers of each
    stream, relative to the hidden size. shared: adapted layers that read one tensor, the normalised
    image tokens. second: the same of the second attention. last_adapted: the last layer of the
    feed-forward part is among them. modulated: something trains that the modulations come from.
    full: every weight trains. dora: LoRA's columns have a magnitude. values: weights of the adapted
    layers."""

    image: tuple[float, ...] = ()
    text: tuple[float, ...] = ()
    shared: int = 0
    second: int = 0
    last_adapted: bool = False
    modulated: bool = False
    full: bool = False
    dora: bool = False
    values: int = 0


@dataclass(frozen=True)
class BlockBytes:
    """Bytes of one block for one image token, and for one text token. kept: saved for the backward
    pass. late: of it, what is saved after the attention. forward, backward: alive beside the saved
    tensors when memory peaks in the pass. input: the block's own input, which is all that a
    checkpointed block keeps."""

    kept: float
    late: float
    forward: float
    backward: float
    input: float


@lru_cache(maxsize=256)
def adapted(
    shape: "Transformer", index: int, targets: tuple[str, ...], *, full: bool, dora: bool
) -> Adapted:
    """What trains in block `index`: beside layers of these names, as in `peft_lora_target_modules`,
    or everything."""
    if full:
        return Adapted(modulated=True, full=True)
    begin = f"transformer_blocks.{index}."
    near = (li for li in linears(shape) if li.name.startswith((begin, "time_text_embed")))
    hit = [li for li in near if any(map(li.ends_in, targets))]
    own = [li for li in hit if li.name.startswith(begin)]
    parts = [(li.name.removeprefix(begin), li.inputs / shape.hidden) for li in own]
    plain = [(name, width) for name, width in parts if not name.startswith("norm")]
    text = [w for name, w in plain if name.endswith(TEXT_LAYERS) or name.startswith("ff_context")]
    names = [name for name, _ in plain]
    return Adapted(
        image=tuple(w for name, w in plain if not name.endswith(TEXT_LAYERS)
                    and not name.startswith("ff_context")),
        text=tuple(text),
        shared=sum(name in {f"attn.{n}" for n in INPUT_LAYERS} for name in names),
        second=sum(name in {f"attn2.{n}" for n in INPUT_LAYERS} for name in names),
        last_adapted="ff.net.2" in names,
        dora=dora,
        values=sum(li.inputs * li.outputs for li in own),
        modulated=len(own) > len(plain)
        or any(li.name.startswith("time_text_embed") for li in hit),
    )  # fmt: skip


def image_bytes(
    shape: "Transformer", index: int, own: Adapted, rank: int, form: Format
) -> BlockBytes:
    """The image stream of block `index`, for one token (all hidden units)."""
    c, dual = form.compute, index < shape.dual_layers
    first = _without_gradient(index, own)
    norms = (0 if first else form.saved_norm) + form.saved_norm
    query_key = 2 * _rms_norm(own, form) if shape.qk_norm else 0
    joint = 3 * c + c + 4 / shape.head_dim  # q, k, v with the text's, the output, the log-sum-exp
    kept = norms + query_key + joint + GELU_WIDTH * c
    if dual:  # its query, key and value are not copied to join the text's
        kept += 2 * (_rms_norm(own, form) + c) + c + c + 4 / shape.head_dim
    attentions = 2 if dual else 1
    kept += _inputs(own.image, (own.shared, own.second), form, without_gradient=first)
    if form.inputs_kept:  # of q, k, v, net.0 and net.2; to_out reads the attention's output
        copies = 3 if form.normed != c else 1
        kept += (0 if first else copies * attentions * c) + c + GELU_WIDTH * c
    if own.modulated:  # gradients of scale and gate need what they multiply
        kept += 2 * form.normed + (1 + attentions) * c
    if own.full:  # the inputs of all linear layers
        reads = 3 * c if form.half and form.normed != c else c
        kept += attentions * (reads + c) + c + GELU_WIDTH * c
    if own.dora:  # the products of the weight and of LoRA, which the magnitude multiplies
        kept += 2 * c * len(own.image)
    # When net.2 computes, Python still holds: its input and output, the stream after the attention
    # (which the norm saves where it makes no copy), the gated attention, the normalised tokens; and
    # the second gated attention.
    given = 0 if own.full or form.inputs_kept else GELU_WIDTH * c
    forward = given + 2 * c + (0 if form.norm_saves_input else c) + form.normed + dual * c
    if own.last_adapted and form.half:  # LoRA's float32 copy of GELU's output, dropped out
        forward += GELU_WIDTH * (4 + (4 if form.mask else 0))
    backward = c + 2 * GELU_WIDTH * c  # gradients of the stream and on both sides of GELU
    h = shape.hidden
    late = form.saved_norm + GELU_WIDTH * c
    return BlockBytes(
        h * kept + rank * form.adapter * len(own.image), h * late, h * forward, h * backward, h * c
    )


def text_bytes(
    shape: "Transformer", index: int, own: Adapted, rank: int, form: Format
) -> BlockBytes:
    """The text stream of block `index`, for one token (all hidden units). It has left memory's peak
    when the image stream is at its own, but for what it keeps."""
    c, last = form.compute, index == shape.layers - 1
    first = _without_gradient(index, own)
    norms = (0 if first else form.saved_norm) + (0 if last else form.saved_norm)
    query_key = 0 if first or not shape.qk_norm else 2 * _rms_norm(own, form)
    kept = norms + query_key + 3 * c + c + 4 / shape.head_dim
    kept += 0 if last else GELU_WIDTH * c
    kept += _inputs(own.text, (), form, without_gradient=False)
    if form.inputs_kept:
        kept += 0 if first else (3 if form.normed != c else 1) * c
        kept += 0 if last else c + GELU_WIDTH * c
    if own.modulated:
        kept += form.normed + (0 if last else form.normed + 2 * c)
    if own.full:
        kept += (3 * c if form.half else c) + (0 if last else c + c + GELU_WIDTH * c)
    h = shape.hidden
    return BlockBytes(
        h * kept + rank * form.adapter * len(own.text), 0, h * 2 * c, h * 2 * c, h * c
    )


def _without_gradient(index: int, own: Adapted) -> bool:
    """Whether the block's input has no gradient: nothing before the first block trains."""
    return index == 0 and not own.full and not own.modulated


def _rms_norm(own: Adapted, form: Format) -> int:
    """Of query or key: a float32 copy and the value itself; where the value is float32 these are
    one tensor. A weight that trains also keeps what it multiplies."""
    copies = 4 + form.compute if form.half else 4
    return copies + (form.weight if own.full else 0)


def _inputs(
    widths: tuple[float, ...], shared: tuple[int, ...], form: Format, *, without_gradient: bool
) -> float:
    """Inputs of adapted layers. Where every layer casts its own copy, it is kept; otherwise layers
    share their input, unless dropout makes one for each. Dropout keeps its mask where the input has
    a gradient."""
    count = sum(widths)
    if form.recast or form.mask:
        free = sum(shared) if without_gradient else 0  # the first block's input has no gradient
        return count * form.adapter + (count - free) * form.mask
    return (count - sum(max(n - 1, 0) for n in shared)) * form.adapter
