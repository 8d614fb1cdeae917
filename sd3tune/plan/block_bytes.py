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
    dropout's mask; 0 without dropout."""

    compute: int
    saved_norm: int
    normed: int
    mask: int

    @property
    def half(self) -> bool:
        """Products in 16 bits: float32 operators beside them need copies."""
        return self.compute == 2


@dataclass(frozen=True)
class Adapted:
    """What trains in one block. image, text: input widths of the adapted linear layers of each
    stream, relative to the hidden size. shared: adapted layers that read one tensor, the normalised
    image tokens. second: the same of the second attention. modulated: something trains that the
    modulations come from. full: every weight trains."""

    image: tuple[float, ...] = ()
    text: tuple[float, ...] = ()
    shared: int = 0
    second: int = 0
    modulated: bool = False
    full: bool = False


@dataclass(frozen=True)
class BlockBytes:
    """Bytes of one block for one image token, and for one text token. kept: saved for the backward
    pass. forward, backward: alive beside the saved tensors when memory peaks in the pass. input:
    the block's own input, which is all that a checkpointed block keeps."""

    kept: float
    forward: float
    backward: float
    input: float


@lru_cache(maxsize=256)
def adapted(shape: "Transformer", index: int, targets: tuple[str, ...], full: bool) -> Adapted:
    """What trains in block `index`, for LoRA on the targets or for full training."""
    if full:
        return Adapted(modulated=True, full=True)
    begin = f"transformer_blocks.{index}."
    hit = [li for li in linears(shape) if any(map(li.ends_in, targets))]
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
        modulated=len(own) > len(plain)
        or any(li.name.startswith("time_text_embed") for li in hit),
    )  # fmt: skip


def image_bytes(
    shape: "Transformer", index: int, own: Adapted, rank: int, form: Format
) -> BlockBytes:
    """The image stream of block `index`, for one token (all hidden units)."""
    c, dual = form.compute, index < shape.dual_layers
    first = index == 0 and not own.full and not own.modulated
    norms = (0 if first else form.saved_norm) + form.saved_norm
    query_key = 2 * _rms_norm(own, form) if shape.qk_norm else 0
    joint = 3 * c + c + 4 / shape.head_dim  # q, k, v with the text's, the output, the log-sum-exp
    kept = norms + query_key + joint + GELU_WIDTH * c
    if dual:  # its query, key and value are not copied to join the text's
        kept += 2 * (_rms_norm(own, form) + c) + c + c + 4 / shape.head_dim
    shared = (own.shared, own.second) if dual else (own.shared,)
    kept += _inputs(own.image, shared, form, without_gradient=first)
    attentions = 2 if dual else 1
    if own.modulated:  # gradients of scale and gate need what they multiply
        kept += 2 * form.normed + (1 + attentions) * c
    if own.full:  # the inputs of all linear layers
        reads = 3 * c if form.half else c
        kept += attentions * (reads + c) + c + GELU_WIDTH * c
    ranks = rank * c * len(own.image)
    # When net.2 computes, Python still holds: its input and output, the stream before and after
    # the attention, the gated attention, the normalised tokens; and those of the second attention.
    forward = (0 if own.full else GELU_WIDTH * c) + 3 * c + form.normed
    forward += (c + form.normed) if dual else 0
    backward = c + 2 * GELU_WIDTH * c  # gradients of the stream and on both sides of GELU
    h = shape.hidden
    return BlockBytes(h * kept + ranks, h * forward, h * backward, h * c)


def text_bytes(
    shape: "Transformer", index: int, own: Adapted, rank: int, form: Format
) -> BlockBytes:
    """The text stream of block `index`, for one token (all hidden units). It has left memory's peak
    when the image stream is at its own, but for what it keeps."""
    c, last = form.compute, index == shape.layers - 1
    first = index == 0 and not own.full and not own.modulated
    norms = (0 if first else form.saved_norm) + (0 if last else form.saved_norm)
    query_key = 0 if first or not shape.qk_norm else 2 * _rms_norm(own, form)
    kept = norms + query_key + 3 * c + c + 4 / shape.head_dim
    kept += 0 if last else GELU_WIDTH * c
    kept += _inputs(own.text, (), form, without_gradient=False)
    if own.modulated:
        kept += form.normed + (0 if last else form.normed + 2 * c)
    if own.full:
        kept += (3 * c if form.half else c) + (0 if last else c + c + GELU_WIDTH * c)
    ranks = rank * c * len(own.text)
    h = shape.hidden
    return BlockBytes(h * kept + ranks, h * 2 * c, h * 2 * c, h * c)


def _rms_norm(own: Adapted, form: Format) -> int:
    """Of query or key: a float32 copy and the value itself; in float32 these are one tensor. A
    weight that trains also keeps what it multiplies."""
    copies = 4 + form.compute if form.half else form.compute
    return copies + (form.compute if own.full else 0)


def _inputs(
    widths: tuple[float, ...], shared: tuple[int, ...], form: Format, *, without_gradient: bool
) -> float:
    """Inputs of adapted layers. In 16 bits every layer casts its own copy; in float32 layers share
    their input, unless dropout makes one for each. Dropout keeps its mask where the input has a
    gradient."""
    count = sum(widths)
    if form.half or form.mask:
        free = sum(shared) if without_gradient else 0  # the first block's input has no gradient
        return count * form.compute + (count - free) * form.mask
    return (count - sum(max(n - 1, 0) for n in shared)) * form.compute
