"""Names and sizes of every linear layer of an SD3 transformer, without building the model. Adapters
target these layers.

Names, sizes and classes are those of diffusers (SD3Transformer2DModel 0.42); tests compare them
with the model built on the meta device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.sd3.variants import Transformer

EMBEDDER = "time_text_embed"  # of noise level and pooled caption
ATTENTION, FEED_FORWARD, BLOCK = "Attention", "FeedForward", "JointTransformerBlock"
NORMS = {"norm1": "AdaLayerNormZero", "norm1_context": "AdaLayerNormZero"}


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer: its weight has the shape (outputs, inputs)."""

    name: str  # "transformer_blocks.0.attn.to_q"
    inputs: int
    outputs: int
    inside: tuple[tuple[str, str], ...]  # (name, class) of the modules around it, outermost first

    def ends_in(self, target: str) -> bool:
        """Whether `target` names this layer, as in peft: the whole name or its last parts."""
        return self.name == target or self.name.endswith("." + target)


def is_modulating(name: str) -> bool:
    """Whether a linear is an AdaLN layer, or belongs to the embedder before them."""
    parts = name.split(".")
    return parts[0] == EMBEDDER or parts[-1] == "linear"


@lru_cache(maxsize=16)
def linears(shape: "Transformer") -> tuple[Linear, ...]:
    """Every linear layer of a transformer of this shape, in the order of diffusers' modules."""
    return tuple(_linears(shape))


def _linears(shape: "Transformer") -> Iterator[Linear]:
    h = shape.hidden
    embedder = ((EMBEDDER, "CombinedTimestepTextProjEmbeddings"),)
    time = (*embedder, ("time_text_embed.timestep_embedder", "TimestepEmbedding"))
    text = (*embedder, ("time_text_embed.text_embedder", "PixArtAlphaTextProjection"))
    yield Linear("time_text_embed.timestep_embedder.linear_1", 256, h, time)
    yield Linear("time_text_embed.timestep_embedder.linear_2", h, h, time)
    yield Linear("time_text_embed.text_embedder.linear_1", shape.pooled_dim, h, text)
    yield Linear("time_text_embed.text_embedder.linear_2", h, h, text)
    yield Linear("context_embedder", shape.joint_dim, h, ())
    for number in range(shape.layers):
        yield from _block(shape, number)
    yield Linear("norm_out.linear", h, 2 * h, (("norm_out", "AdaLayerNormContinuous"),))
    yield Linear("proj_out", h, 4 * shape.channels, ())


def _block(shape: "Transformer", number: int) -> Iterator[Linear]:
    h, block = shape.hidden, f"transformer_blocks.{number}"
    dual, last = number < shape.dual_layers, number == shape.layers - 1
    outer = (block, BLOCK)

    def inside(part: str, kind: str, *names: tuple[str, int, int]) -> Iterator[Linear]:
        place = (outer, (f"{block}.{part}", kind))
        for name, inputs, outputs in names:
            yield Linear(f"{block}.{part}.{name}", inputs, outputs, place)

    yield from inside("norm1", "SD35AdaLayerNormZeroX" if dual else "AdaLayerNormZero",
                      ("linear", h, (9 if dual else 6) * h))  # fmt: skip
    yield from inside("norm1_context", "AdaLayerNormContinuous" if last else "AdaLayerNormZero",
                      ("linear", h, (2 if last else 6) * h))  # fmt: skip
    own = ("to_q", "to_k", "to_v", "to_out.0")
    joint = ("add_k_proj", "add_v_proj", "add_q_proj", *(() if last else ("to_add_out",)))
    yield from inside("attn", ATTENTION, *((name, h, h) for name in (*own, *joint)))
    if dual:
        yield from inside("attn2", ATTENTION, *((name, h, h) for name in own))
    for part in ("ff",) if last else ("ff", "ff_context"):
        yield from inside(part, FEED_FORWARD, ("net.0.proj", h, 4 * h), ("net.2", 4 * h, h))
