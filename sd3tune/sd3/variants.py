"""The three SD3 architectures as numbers: enough to count parameters without loading weights.

Counts are arithmetic over diffusers' SD3Transformer2DModel (0.42); tests compare them with the
model built on the meta device. No torch here: `plan` must answer in a blink.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError
from sd3tune.sd3.linears import Linear, linears

PATCH = 2  # pixels of latent per token side
VAE_SCALE = 8  # pixels of image per pixel of latent
CLIP_TOKENS = 77


@dataclass(frozen=True)
class Transformer:
    """Shape of one SD3 transformer."""

    layers: int
    heads: int
    head_dim: int
    dual_layers: int  # blocks with a second, image-only attention (SD3.5 medium)
    qk_norm: bool  # SD3.5
    joint_dim: int  # width of a text token as it enters
    pooled_dim: int
    positions: int  # side of the table of absolute positions, in tokens
    channels: int = 16

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim

    @property
    def longest_side(self) -> int:
        """Of an image in pixels: the table of positions ends there."""
        return self.positions * PATCH * VAE_SCALE

    @property
    def parameters(self) -> int:
        """Every parameter of the transformer."""
        h = self.hidden
        embed = self.channels * PATCH**2 * h + h
        time_text = 256 * h + h + h * h + h + self.pooled_dim * h + h + h * h + h
        context = self.joint_dim * h + h
        out = 2 * h * h + 2 * h + PATCH**2 * self.channels * (h + 1)
        norms = 2 * self.head_dim * (2 * self.layers + self.dual_layers) if self.qk_norm else 0
        return embed + time_text + context + out + norms + self.quantisable + self._adaln

    @property
    def quantisable(self) -> int:
        """Parameters in the attention and feed-forward linears of the blocks, biases included:
        what quantisation shrinks. A third of each block is AdaLN and stays."""
        h, n = self.hidden, self.layers
        square, feed_forward = h * h + h, 8 * h * h + 5 * h
        # The last block drops its text branch after attention: no to_add_out, no ff_context.
        attention = n * 8 * square - square + self.dual_layers * 4 * square
        return attention + n * 2 * feed_forward - feed_forward

    @property
    def _adaln(self) -> int:
        h, n = self.hidden, self.layers
        one = h * h + h
        return (6 * n + 3 * self.dual_layers + 6 * (n - 1) + 2) * one

    def block(self, index: int) -> tuple[int, int]:
        """Parameters of one block: all of them, and those that quantisation shrinks."""
        h, last, dual = self.hidden, index == self.layers - 1, index < self.dual_layers
        one, feed_forward = h * h + h, 8 * h * h + 5 * h
        quantisable = (8 - last + 4 * dual) * one + (2 - last) * feed_forward
        adaln = (6 + 3 * dual + (2 if last else 6)) * one
        norms = 2 * self.head_dim * (2 + dual) if self.qk_norm else 0
        return quantisable + adaln + norms, quantisable

    def targeted(self, targets: Sequence[str]) -> list[Linear]:
        """Linears whose name ends in one of the targets, as in `peft_lora_target_modules`."""
        return [linear for linear in linears(self) if any(map(linear.ends_in, targets))]

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Size of an adapter."""
        return sum(rank * (found.inputs + found.outputs) for found in self.targeted(targets))


@dataclass(frozen=True)
class Model:
    """What will be trained: where its weights are, and their sizes."""

    name: str  # "sd3.5-medium", or "sd3.5-medium (tiny)" for anything of that kind but its size
    source: str  # folder or hub id
    transformer: Transformer
    text_encoders: tuple[int, int, int]  # parameters of CLIP-L, CLIP-G, T5; 0: not in the model
    vae: int


SD3_MEDIUM = Transformer(24, 24, 64, 0, False, 4096, 2048, 192)
SD35_MEDIUM = Transformer(24, 24, 64, 13, True, 4096, 2048, 384)
SD35_LARGE = Transformer(38, 38, 64, 0, True, 4096, 2048, 192)

# CLIPTextModelWithProjection of CLIP-L and OpenCLIP-G, T5-v1.1-XXL's encoder, the 16-channel VAE.
TEXT_ENCODERS = (123_650_304, 694_659_840, 4_762_310_656)
VAE = 83_819_683

REPOSITORIES = {
    "stabilityai/stable-diffusion-3-medium-diffusers": ("sd3-medium", SD3_MEDIUM),
    "stabilityai/stable-diffusion-3.5-medium": ("sd3.5-medium", SD35_MEDIUM),
    "stabilityai/stable-diffusion-3.5-large": ("sd3.5-large", SD35_LARGE),
}


def find(source: str) -> Model:
    """The model at `source`: a diffusers folder, or a hub id this table knows, the hub's cache
    holds, or the hub answers for. Reads headers and JSON only. Raises ModelError."""
    folder = Path(source)
    if folder.is_dir():
        return from_folder(folder)
    if source in REPOSITORIES:
        name, transformer = REPOSITORIES[source]
        return Model(name, source, transformer, TEXT_ENCODERS, VAE)
    if (config := _hub_config(source)) is not None:
        shape = from_config(config, source)
        return Model(_kind(shape), source, shape, TEXT_ENCODERS, VAE)
    raise ModelError(
        f"`pretrained_model_name_or_path={source}` is no folder here and no model sd3tune knows",
        hint=f"give a diffusers folder, or one of {', '.join(REPOSITORIES)}",
    )


def from_folder(folder: Path) -> Model:
    path = folder / "transformer" / "config.json"
    try:
        shape = from_config(json.loads(path.read_text()), str(folder))
    except FileNotFoundError:
        raise ModelError(
            f"`pretrained_model_name_or_path={folder}` holds no transformer/config.json",
            hint="it must be a diffusers folder of SD3 or SD3.5; `sd3tune demo DIR` writes one",
        ) from None
    except ValueError as e:
        raise ModelError(f"`{path}` is not JSON: {e}", hint="download the model again") from None
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    counts = [stored_parameters(folder / name) for name in encoders]
    return Model(
        _kind(shape),
        str(folder),
        shape,
        (counts[0], counts[1], counts[2]),
        stored_parameters(folder / "vae"),
    )


def from_config(config: Mapping[str, Any], source: str) -> Transformer:
    """From a transformer/config.json. Raises ModelError when it is not an SD3 one."""
    if config.get("_class_name") != "SD3Transformer2DModel":
        raise ModelError(
            f"`pretrained_model_name_or_path={source}` holds a {config.get('_class_name')}, "
            "not an SD3 transformer",
            hint="model_family=sd3 trains Stable Diffusion 3 and 3.5 only",
        )
    return Transformer(
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        dual_layers=len(config.get("dual_attention_layers") or ()),
        qk_norm=config.get("qk_norm") is not None,
        joint_dim=config["joint_attention_dim"],
        pooled_dim=config["pooled_projection_dim"],
        positions=config["pos_embed_max_size"],
        channels=config["in_channels"],
    )


def stored_parameters(folder: Path) -> int:
    """Elements in a component's safetensors files, read from their headers alone."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                total += _product(entry["shape"])
    return total


def tokens(width: int, height: int) -> int:
    """Image tokens the transformer sees for an image of so many pixels."""
    side = VAE_SCALE * PATCH
    return (width // side) * (height // side)


def _product(shape: list[int]) -> int:
    result = 1
    for n in shape:
        result *= n
    return result


def _kind(shape: Transformer) -> str:
    for name, known in REPOSITORIES.values():
        if shape == known:
            return name
    if not shape.qk_norm:
        return "sd3-medium (tiny)"
    return "sd3.5-medium (tiny)" if shape.dual_layers else "sd3.5-large (tiny)"


def _hub_config(repository: str) -> dict[str, Any] | None:
    """transformer/config.json of a repository, a few hundred bytes; None when nobody has it."""
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = hf_hub_download(repository, "transformer/config.json", etag_timeout=5)
    except (OSError, HfHubHTTPError, HFValidationError):  # no network, no such thing, gated
        return None
    config: dict[str, Any] = json.loads(Path(path).read_text())
    return config
