"""What follows from the sizes of an architecture: parameters, counted without loading weights.

The counts follow diffusers' SD3Transformer2DModel (0.42); tests compare them with the model built
on the meta device. This module imports no torch, so that `plan` answers quickly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sd3tune.errors import ModelError
from sd3tune.sd3.linears import Linear, linears
from sd3tune.tables import architectures
from sd3tune.tables.architectures import ARCHITECTURES, Architecture

PATCH = 2  # a token is PATCH x PATCH latent pixels
VAE_SCALE = 8  # image pixels per latent pixel, along one side
CLIP_TOKENS = 77


@dataclass(frozen=True)
class Transformer:
    """Shape of one SD3 transformer."""

    layers: int
    heads: int
    head_dim: int
    dual_layers: int  # blocks with a second, image-only attention (SD3.5 medium)
    qk_norm: bool  # SD3.5
    joint_dim: int  # width of a text token before context_embedder
    pooled_dim: int
    positions: int  # side length of the table of absolute positions, in tokens
    channels: int = 16

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.heads * self.head_dim

    @property
    def longest_side(self) -> int:
        """Longest side of an image in pixels: the table of positions ends there."""
        return self.positions * PATCH * VAE_SCALE

    @property
    def parameters(self) -> int:
        """Number of parameters of the transformer."""
        h = self.hidden
        embed = self.channels * PATCH**2 * h + h
        time_text = 256 * h + h + h * h + h + self.pooled_dim * h + h + h * h + h
        context = self.joint_dim * h + h
        out = 2 * h * h + 2 * h + PATCH**2 * self.channels * (h + 1)
        norms = 2 * self.head_dim * (2 * self.layers + self.dual_layers) if self.qk_norm else 0
        return embed + time_text + context + out + norms + self.quantisable + self.modulating

    @property
    def quantisable(self) -> int:
        """Number of parameters that quantisation reduces: the attention and feed-forward linear
        layers of the blocks, biases included. AdaLN, a third of each block, is not quantised."""
        h, n = self.hidden, self.layers
        square, feed_forward = h * h + h, 8 * h * h + 5 * h
        # The last block drops its text branch after attention: no to_add_out, no ff_context.
        attention = n * 8 * square - square + self.dual_layers * 4 * square
        return attention + n * 2 * feed_forward - feed_forward

    @property
    def modulating(self) -> int:
        """Number of parameters of the AdaLN layers, of the blocks and before the output."""
        h, n = self.hidden, self.layers
        one = h * h + h
        return (6 * n + 3 * self.dual_layers + 6 * (n - 1) + 2) * one

    def block(self, index: int) -> tuple[int, int]:
        """Numbers of parameters of one block: all, and those that quantisation reduces."""
        h, last, dual = self.hidden, index == self.layers - 1, index < self.dual_layers
        one, feed_forward = h * h + h, 8 * h * h + 5 * h
        quantisable = (8 - last + 4 * dual) * one + (2 - last) * feed_forward
        norms = 2 * self.head_dim * (2 + dual) if self.qk_norm else 0
        return quantisable + self.modulating_in(index) + norms, quantisable

    def modulating_in(self, index: int) -> int:
        """Number of parameters of the AdaLN layers of one block."""
        h, last, dual = self.hidden, index == self.layers - 1, index < self.dual_layers
        return (6 + 3 * dual + (2 if last else 6)) * (h * h + h)

    def scores(self, tokens: int) -> int:
        """Number of attention scores of one layer for one image with that many tokens."""
        return self.heads * tokens**2

    def targeted(self, targets: Sequence[str]) -> list[Linear]:
        """Linear layers whose name ends in one of the targets, as in `peft_lora_target_modules`."""
        return [linear for linear in linears(self) if any(map(linear.ends_in, targets))]

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Number of parameters of a LoRA of that rank on the targets."""
        return sum(rank * (found.inputs + found.outputs) for found in self.targeted(targets))


@dataclass(frozen=True)
class ModelSource:
    """The sources of the parts of a model. Each is a diffusers folder or a hub id; transformer and
    VAE may also be a single safetensors file."""

    base: str  # text encoders and tokenizers
    transformer: str
    vae: str
    subfolder: str = "transformer"  # where the transformer is in its folder or repository

    @classmethod
    def of(cls, place: "str | ModelSource") -> "ModelSource":
        """A model whose parts are all in one folder or repository."""
        return place if isinstance(place, ModelSource) else cls(place, place, place)

    def __str__(self) -> str:
        if self.transformer == self.base:
            return self.base
        vae = " with its VAE" if self.vae == self.transformer else ""
        return f"{self.transformer}{vae}, text encoders of {self.base}"


@dataclass(frozen=True)
class Model:
    """The model of a run: the sources of its weights, and their sizes."""

    name: str  # "sd3.5-medium", or "sd3.5-medium (tiny)" for another size of that architecture
    source: ModelSource
    transformer: Transformer
    text_encoders: tuple[int, int, int]  # parameters of CLIP-L, CLIP-G, T5; 0: the model lacks it
    vae: int
    tiny_vae: str | None = None  # folder or repository of a tiny autoencoder, for previews


def shape_of(row: Architecture) -> Transformer:
    """The shape of a released model."""
    return Transformer(**row.sizes)


SD3_MEDIUM = shape_of(architectures.SD3_MEDIUM)
SD35_MEDIUM = shape_of(architectures.SD35_MEDIUM)
SD35_LARGE = shape_of(architectures.SD35_LARGE)

COMPONENTS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # folders of a pipeline
# Parameter counts: CLIPTextModelWithProjection of CLIP-L and OpenCLIP-G, T5-v1.1-XXL's encoder, and
# the 16-channel VAE.
TEXT_ENCODERS = (123_650_304, 694_659_840, 4_762_310_656)
VAE = 83_819_683

# Largest numbers in a transformer's config.json, several times those of the released models: a
# damaged file is refused before anything is built from it.
LIMITS = {
    "num_layers": 256,
    "num_attention_heads": 256,
    "attention_head_dim": 1024,
    "joint_attention_dim": 65_536,
    "pooled_projection_dim": 65_536,
    "pos_embed_max_size": 4096,
    "in_channels": 1024,
}


def from_config(config: Mapping[str, Any], where: str) -> Transformer:
    """The shape in a transformer/config.json. Raises ModelError if it is not an SD3 transformer.
    where: the source, for messages, as in `pretrained_model_name_or_path=…`."""
    if config.get("_class_name") != "SD3Transformer2DModel":
        raise ModelError(
            f"`{where}` holds a {config.get('_class_name')}, not an SD3 transformer",
            hint="model_family=sd3 trains Stable Diffusion 3 and 3.5 only",
        )
    sizes = {key: _size(config.get(key), key, limit, where) for key, limit in LIMITS.items()}
    layers, dual = sizes["num_layers"], config.get("dual_attention_layers") or ()
    blocks = list(dual) if isinstance(dual, list | tuple) else [dual]
    if len({b for b in blocks if type(b) is int and 0 <= b < layers}) != len(blocks):
        raise _unlikely(where, "dual_attention_layers", dual, f"numbers of blocks below {layers}")
    if config.get("patch_size", PATCH) != PATCH:
        size = config["patch_size"]
        raise _unlikely(where, "patch_size", size, f"{PATCH}, the patch size of SD3")
    return Transformer(
        layers=layers,
        heads=sizes["num_attention_heads"],
        head_dim=sizes["attention_head_dim"],
        dual_layers=len(blocks),
        qk_norm=config.get("qk_norm") is not None,
        joint_dim=sizes["joint_attention_dim"],
        pooled_dim=sizes["pooled_projection_dim"],
        positions=sizes["pos_embed_max_size"],
        channels=sizes["in_channels"],
    )


def _size(value: object, key: str, limit: int, where: str) -> int:
    if type(value) is not int or not 0 < value <= limit:
        raise _unlikely(where, key, value, f"a whole number from 1 to {limit:,}")
    return value


def _unlikely(where: str, key: str, value: object, wanted: str) -> ModelError:
    return ModelError(
        f"`{where}`: `{key}={str(value)[:40]}` in the transformer's config.json is not {wanted}",
        hint="download the model again",
    )


def tokens(width: int, height: int) -> int:
    """Number of image tokens for an image of width x height pixels."""
    side = VAE_SCALE * PATCH
    return (width // side) * (height // side)


def kind(shape: Transformer) -> str:
    """The released model of that shape, or "… (tiny)" of its architecture: the one with the same
    norms and, where there is one, with as much of a second attention."""
    rows = {row.name: shape_of(row) for row in ARCHITECTURES.rows}
    if (
        released := next((name for name, known in rows.items() if known == shape), None)
    ) is not None:
        return released
    alike = {name: known for name, known in rows.items() if known.qk_norm == shape.qk_norm}
    dual = [name for name, known in alike.items()
            if (known.dual_layers > 0) == (shape.dual_layers > 0)]  # fmt: skip
    return f"{(dual or list(alike))[0]} (tiny)"
