"""The tensors that the weights of each part of a model must contain, by name and shape.

Libraries fill a tensor that is missing with random numbers and go on, so a run would train on
noise. Names and shapes are those of diffusers' SD3Transformer2DModel and AutoencoderKL (0.42) and
of transformers' CLIPTextModelWithProjection and T5EncoderModel (5.24); tests compare them with the
models. They follow from config.json; no torch here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sd3tune.sd3.linears import linears
from sd3tune.sd3.module_names import TABLE, diffusers_names, originals
from sd3tune.sd3.variants import PATCH, Transformer

Shape = tuple[int, ...]
Expected = dict[str, Shape | None]  # None: the shape is not checked
# Names that transformers and diffusers still read under an older spelling.
OLDER = {"encoder.embed_tokens.weight": "shared.weight"}
OLDER_PARTS = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.",
               ".proj_attn.": ".to_out.0."}  # fmt: skip


def transformer(shape: Transformer, dual: Iterable[int]) -> Expected:
    """dual: the numbers of the blocks with a second attention."""
    expected: Expected = {}
    for name in originals(shape.layers, tuple(dual), shape.qk_norm):
        module, _, kind = name.rpartition(".")
        expected |= {f"{new}.{kind}": None for new in diffusers_names(module)}
    sizes = {f"{x.name}.weight": (x.outputs, x.inputs) for x in linears(shape)}
    expected |= {name: size for name, size in sizes.items() if name in expected}
    expected[TABLE[1]] = (1, shape.positions**2, shape.hidden)
    expected["pos_embed.proj.weight"] = (shape.hidden, shape.channels, PATCH, PATCH)
    return expected


def clip(config: Mapping[str, int]) -> Expected:
    """config: of a CLIP text encoder, with the defaults filled in."""
    width = config["hidden_size"]
    expected: Expected = {
        "text_model.embeddings.token_embedding.weight": (config["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (
            config["max_position_embeddings"], width),
        "text_projection.weight": (config["projection_dim"], width),
    }  # fmt: skip
    expected |= _both(["text_model.final_layer_norm"])
    attention = (f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
    block = (*attention, "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    for number in range(config["num_hidden_layers"]):
        expected |= _both(f"text_model.encoder.layers.{number}.{name}" for name in block)
    return expected


def t5(config: Mapping[str, int], *, gated: bool) -> Expected:
    """config: of a T5 encoder, with the defaults filled in. gated: its feed-forward layers have a
    gate, as in T5 v1.1."""
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    expected: Expected = {
        "shared.weight": (config["vocab_size"], config["d_model"]),
        "encoder.final_layer_norm.weight": (config["d_model"],),
        first: None,
    }
    forward = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
    block = [f"layer.0.SelfAttention.{name}" for name in "qkvo"]
    block += ["layer.0.layer_norm", "layer.1.layer_norm"]
    block += [f"layer.1.DenseReluDense.{name}" for name in forward]
    for number in range(config["num_layers"]):
        expected |= {f"encoder.block.{number}.{name}.weight": None for name in block}
    return expected


def vae(config: Mapping[str, Any], latents: int) -> Expected:
    """config: of an AutoencoderKL, whose widths and counts were checked. latents: channels."""
    expected = _both(_vae_modules(config))
    widths = config["block_out_channels"]
    expected["encoder.conv_in.weight"] = (widths[0], 3, 3, 3)
    expected["encoder.conv_out.weight"] = (2 * latents, widths[-1], 3, 3)
    expected["decoder.conv_in.weight"] = (widths[-1], latents, 3, 3)
    expected["decoder.conv_out.weight"] = (3, widths[0], 3, 3)
    return expected


def _vae_modules(config: Mapping[str, Any]) -> Iterator[str]:
    for side in ("encoder", "decoder"):
        yield from (f"{side}.{name}" for name in ("conv_in", "conv_norm_out", "conv_out"))
        for number in range(2):
            yield from _resnet(f"{side}.mid_block.resnets.{number}")
        if config.get("mid_block_add_attention", True):
            parts = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
            yield from (f"{side}.mid_block.attentions.0.{name}" for name in parts)
    widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
    yield from _levels("encoder.down_blocks", widths, layers, "downsamplers")
    yield from _levels("decoder.up_blocks", widths[::-1], layers + 1, "upsamplers")
    if config.get("use_quant_conv", True):
        yield "quant_conv"
    if config.get("use_post_quant_conv", True):
        yield "post_quant_conv"


def _levels(where: str, widths: list[int], resnets: int, between: str) -> Iterator[str]:
    """where: the name of the levels; between: the name of what changes the size after each."""
    for level, width in enumerate(widths):
        for number in range(resnets):
            changes = number == 0 and level > 0 and widths[level - 1] != width
            yield from _resnet(f"{where}.{level}.resnets.{number}", shortcut=changes)
        if level < len(widths) - 1:
            yield f"{where}.{level}.{between}.0.conv"


def _resnet(where: str, *, shortcut: bool = False) -> Iterator[str]:
    parts = ("norm1", "conv1", "norm2", "conv2", *(("conv_shortcut",) if shortcut else ()))
    yield from (f"{where}.{part}" for part in parts)


def _both(modules: Iterable[str]) -> Expected:
    return {f"{module}.{kind}": None for module in modules for kind in ("weight", "bias")}


def present_name(name: str) -> str:
    """The name that a tensor has in the models of today."""
    for old, new in OLDER_PARTS.items():
        name = name.replace(old, new) if ".attentions." in name else name
    return OLDER.get(name, name)
