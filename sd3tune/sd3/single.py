"""Finds what a single-file model in Stability's original layout contains, from its header.

The names of the transformer's tensors may have the prefix of a complete checkpoint. The VAE is
under `first_stage_model.`. Encoders under `text_encoders.` are not used: no file contains
tokenizers, so encoders come from a repository. The configuration follows from the shapes, except
for the width of an attention head, which is 64 in SD3. This module imports no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, NoReturn

from sd3tune.errors import ModelError
from sd3tune.filesystem.safetensors_header import Header
from sd3tune.sd3.module_names import originals
from sd3tune.sd3.variants import LIMITS, PATCH, Transformer

TRANSFORMER = ("model.diffusion_model.", "")  # prefixes; "": a file with only the transformer
VAE = "first_stage_model."
ENCODERS = "text_encoders."
HEAD_DIM = 64  # layers = heads = width / 64: Stability's and ComfyUI's own inference
SAMPLE_SIZE = 128  # of latents at 1024 pixels, as every released config says
SCALE, SHIFT = 1.5305, 0.0609  # of SD3's VAE (Esser et al. 2024); no file contains them
_BLOCK = re.compile(r"joint_blocks\.(\d{1,9})\.")


@dataclass(frozen=True)
class Contents:
    """The contents of a file."""

    prefix: str  # of the transformer's tensors
    shape: Transformer
    dual: tuple[int, ...]  # blocks with a second attention
    vae: bool
    encoders: tuple[str, ...]  # "clip_l", "clip_g", "t5xxl"

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of SD3Transformer2DModel."""
        return {
            "sample_size": SAMPLE_SIZE,
            "patch_size": PATCH,
            "in_channels": self.shape.channels,
            "out_channels": self.shape.channels,
            "num_layers": self.shape.layers,
            "attention_head_dim": self.shape.head_dim,
            "num_attention_heads": self.shape.heads,
            "joint_attention_dim": self.shape.joint_dim,
            "caption_projection_dim": self.shape.hidden,
            "pooled_projection_dim": self.shape.pooled_dim,
            "pos_embed_max_size": self.shape.positions,
            "dual_attention_layers": self.dual,
            "qk_norm": "rms_norm" if self.shape.qk_norm else None,
        }


def is_original(names: Iterable[str]) -> bool:
    """Whether these tensors include an SD3 transformer in the original layout."""
    return any(n.endswith("joint_blocks.0.x_block.attn.qkv.weight") for n in names)


def contents(header: Header) -> Contents:
    """The contents of a file, from its header. Raises ModelError for another model, and for missing
    or extra tensors, which it names."""
    if any(name.startswith("transformer_blocks.0.attn.") for name in header.tensors):
        raise ModelError(
            f"`{header.path}` is a transformer in the layout of diffusers, not in the original one",
            hint="give the folder that holds it and its config.json, as "
            "pretrained_transformer_model_name_or_path with pretrained_transformer_subfolder=., or "
            "give the folder of the whole model",
        )
    if not is_original(header.tensors):
        raise ModelError(
            f"`{header.path}` does not contain an SD3 transformer in the original layout",
            hint="give sd3_medium.safetensors, sd3.5_*.safetensors or a fine-tune of one; "
            "`sd3tune inspect` shows what a file is",
        )
    prefix = next(p for p in TRANSFORMER if f"{p}joint_blocks.0.x_block.attn.qkv.weight" in
                  header.tensors)  # fmt: skip
    names = set(header.tensors)
    mine = {n[len(prefix) :] for n in names if n.startswith(prefix) and not _is_other(n)}
    dual, layers = _blocks(header, mine)
    qk_norm = any(n.endswith(".ln_q.weight") for n in mine)
    _complete(header, mine, set(originals(layers, dual, qk_norm)))
    strange = sorted(n for n in names if not n.startswith(prefix) and not _is_other(n))
    if strange:
        _refuse(header, f"`{strange[0]}` is not a tensor of SD3", len(strange))
    return Contents(
        prefix,
        _shape(header, prefix, layers, len(dual), qk_norm),
        dual,
        any(n.startswith(VAE) for n in names),
        tuple(sorted({n.split(".")[1] for n in names if n.startswith(ENCODERS)})),
    )


def _blocks(header: Header, names: Iterable[str]) -> tuple[tuple[int, ...], int]:
    """The numbers of the blocks with a second attention, and the number of all blocks."""
    found = {n: _BLOCK.match(n) for n in names if n.startswith("joint_blocks.")}
    if strange := sorted(n for n, match in found.items() if match is None):
        _refuse(header, f"`{strange[0]}` is not a tensor of SD3", len(strange))
    numbers = {n: int(match[1]) for n, match in found.items() if match is not None}
    layers = 1 + max(numbers.values())
    if layers > LIMITS["num_layers"]:
        _refuse(header, f"{layers:,} blocks are more than any SD3 model has", 1)
    return tuple(sorted({i for n, i in numbers.items() if ".attn2." in n})), layers


def vae_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Arguments of AutoencoderKL, from the shapes of the tensors under `first_stage_model.`.

    shapes: tensor name without that prefix -> shape.
    """
    levels = sum(f"encoder.down.{i}.block.0.conv1.weight" in shapes for i in range(8))
    widths = tuple(shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels))
    blocks = sum(f"encoder.down.0.block.{i}.conv1.weight" in shapes for i in range(8))
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        # 32 in every latent diffusion model; the VAEs of `sd3tune demo` are narrower.
        "norm_num_groups": 32 if widths[0] >= 32 else widths[0] // 2,
        "sample_size": 8 * SAMPLE_SIZE,
        "scaling_factor": SCALE,
        "shift_factor": SHIFT,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "force_upcast": True,
    }


def _is_other(name: str) -> bool:
    return name.startswith((VAE, ENCODERS))


def _shape(header: Header, prefix: str, layers: int, dual: int, qk_norm: bool) -> Transformer:
    def shape(name: str) -> tuple[int, ...]:
        return header.tensors[prefix + name].shape

    try:
        hidden, channels, patch, _ = shape("x_embedder.proj.weight")
        width = shape("joint_blocks.0.x_block.attn.ln_q.weight")[0] if qk_norm else HEAD_DIM
        positions = isqrt(shape("pos_embed")[1])
        joint, pooled = shape("context_embedder.weight")[1], shape("y_embedder.mlp.0.weight")[1]
    except (IndexError, ValueError):  # fewer dimensions than these tensors have
        _refuse(header, "its tensors have other dimensions than those of SD3", 1)
    if not all((hidden, channels, width, positions, joint, pooled)):
        _refuse(header, "a tensor of SD3 is empty", 1)
    if patch != PATCH or hidden % width or positions**2 != shape("pos_embed")[1]:
        sizes = f"width {hidden}, patch {patch} and {positions} positions"
        _refuse(header, f"{sizes} are not those of an SD3 model", 1)
    return Transformer(
        layers=layers,
        heads=hidden // width,
        head_dim=width,
        dual_layers=dual,
        qk_norm=qk_norm,
        joint_dim=joint,
        pooled_dim=pooled,
        positions=positions,
        channels=channels,
    )


def _complete(header: Header, names: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - names):
        _refuse(header, f"`{missing[0]}` is missing", len(missing))
    if extra := sorted(names - expected):
        scaled = any("scale" in n for n in extra)
        why = " (scaled fp8 weights)" if scaled else ""
        _refuse(header, f"`{extra[0]}` is not a tensor of SD3{why}", len(extra))


def _refuse(header: Header, words: str, count: int) -> NoReturn:
    more = f", and {count - 1} more" if count > 1 else ""
    raise ModelError(
        f"`{header.path}`: {words}{more}",
        hint="use the bf16 or fp16 file that the makers of the model published",
    )
