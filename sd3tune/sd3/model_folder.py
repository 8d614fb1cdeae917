"""Checks by name that a diffusers folder holds every part of an SD3 model, and that its parts fit
each other, before anything is loaded.

Libraries make up what is missing: a tokenizer, tensors, a shift of latents. Reads JSON, headers and
vocabularies; no torch. Refuses nothing that a run does not use: a transformer or VAE with another
source,
and T5 where model_index.json leaves it out.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sd3tune.errors import ErrorAndHint, ModelError
from sd3tune.sd3 import configs, tensor_names, tokenizer_files, weight_files
from sd3tune.sd3.configs import AGAIN, INDEX
from sd3tune.sd3.tokenizer_files import Vocabulary
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE, Transformer

T = TypeVar("T")
# Part -> the classes that can load it.
CLIP_CLASSES, CLIP_TOKENIZERS = ("CLIPTextModelWithProjection",), ("CLIPTokenizer",)
CLASSES: dict[str, tuple[str, ...]] = {
    "text_encoder": CLIP_CLASSES,
    "text_encoder_2": CLIP_CLASSES,
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer": CLIP_TOKENIZERS,
    "tokenizer_2": CLIP_TOKENIZERS,
    "tokenizer_3": ("T5Tokenizer",),
    "transformer": ("SD3Transformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": (),  # any: training and pictures use sd3tune's own
}
T5_PARTS = ("text_encoder_3", "tokenizer_3")
PIPELINE = "StableDiffusion3"  # how the classes of its pipelines begin
# What transformers assumes where a config.json leaves a number out.
CLIP_DEFAULTS = {"vocab_size": 49408, "hidden_size": 512, "projection_dim": 512,
                 "num_hidden_layers": 12, "max_position_embeddings": 77}  # fmt: skip
T5_DEFAULTS = {"vocab_size": 32128, "d_model": 512, "num_layers": 6}
SAME = "use text encoders and a transformer of the same model family"
LEGACY_EOS = 2  # CLIP-L's config names this number; transformers then takes the largest one


@dataclass
class Check:
    """The check of one folder: what it is compared with, and what is wrong with it."""

    folder: Path
    shape: Transformer
    variant: str | None
    vocabularies: Mapping[str, Vocabulary]  # of the tokenizers, by part
    problems: list[ErrorAndHint] = field(default_factory=list)

    def tried(self, check: Callable[[], T]) -> T | None:
        """The answer of a check; None where it refuses something, which becomes a problem."""
        try:
            return check()
        except ModelError as e:
            self.problems += [p for p in e.problems if p not in self.problems]
            return None


def check(
    folder: Path,
    shape: Transformer | None,
    *,
    without: Collection[str] = (),
    variant: str | None = None,
) -> None:
    """Raises ModelError with everything that is missing, damaged or of another model. shape: of the
    run's transformer; None: unknown, and nothing is compared with it. without: parts with another
    source. variant: as in from_pretrained."""
    problems: list[ErrorAndHint] = []
    whole: dict[str, Vocabulary | None] = {}
    try:
        named = _named_parts(folder, without)
    except ModelError as e:
        problems += e.problems
        named = [part for part in CLASSES if part not in without and (folder / part).is_dir()]
    for part in named:
        try:
            whole[part] = _files(folder / part, part)
        except ModelError as e:
            problems += e.problems
    if shape is not None:
        vocabularies = {part: read for part, read in whole.items() if read is not None}
        found = Check(folder, shape, variant, vocabularies)
        _fit(found, whole)
        problems += found.problems
    if problems:
        raise ModelError.of(problems)


def _named_parts(folder: Path, without: Collection[str]) -> list[str]:
    """The parts that model_index.json names, with those that every SD3 model has. Raises
    ModelError."""
    path = folder / INDEX
    if not os.path.lexists(path):
        raise ModelError(f"`{path}` is missing", hint=AGAIN)
    kind = configs.json_object(path).get("_class_name")
    if not str(kind).startswith(PIPELINE):
        raise ModelError(
            f"`{path}` is of a {str(kind)[:80]}, not of a StableDiffusion3Pipeline",
            hint="model_family=sd3 trains Stable Diffusion 3 and 3.5 only",
        )
    named = configs.parts_of(path)
    problems = []
    for part, classes in CLASSES.items():
        if part in without or (part in T5_PARTS and not named.keys() & set(T5_PARTS)):
            continue
        if part not in named:
            problems.append(ErrorAndHint(f"`{path}` names no class for `{part}`", AGAIN))
        elif classes and named[part][1].removesuffix("Fast") not in classes:
            words = f"`{path}`: `{part}` is a {named[part][1]}, and SD3 has a {classes[0]}"
            problems.append(ErrorAndHint(words, AGAIN))
    if problems:
        raise ModelError.of(problems)
    return [part for part in named if part not in without]


def _files(folder: Path, part: str) -> Vocabulary | None:
    """The files of one part are there, and each can be read. The answer is the vocabulary of a
    tokenizer. Raises ModelError."""
    first = {"scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json"}
    name = first.get(
        part, tokenizer_files.CONFIG if part.startswith("tokenizer") else "config.json"
    )
    if not folder.is_dir():
        words = f"`{folder / name}` is missing, and so is every other file of the {part}"
        raise ModelError(words, hint=AGAIN)
    configs.check_part(folder, part)
    if part.startswith("tokenizer"):
        return tokenizer_files.read(folder, "t5" if part in T5_PARTS else "clip")
    if not os.path.lexists(folder / name):
        raise ModelError(f"`{folder / name}` is missing", hint=AGAIN)
    return None


def _fit(found: Check, whole: Collection[str]) -> None:
    """Weights against config.json, tokenizers against encoders, encoders against transformer.
    whole: the parts whose files are whole."""
    folder, shape = found.folder, found.shape
    clips = [
        found.tried(partial(_clip, found, number))
        for number in ("", "_2")
        if {f"text_encoder{number}", f"tokenizer{number}"} <= set(whole)
    ]
    if len(known := [clip for clip in clips if clip is not None]) == 2:
        found.tried(partial(_refuse_other_widths, found, known))
    if set(T5_PARTS) <= set(whole):
        found.tried(partial(_t5, found))
    if "vae" in whole:
        found.tried(partial(_vae, found))
    if "transformer" in whole:
        found.tried(partial(check_transformer, folder / "transformer", shape, found.variant))


def _clip(found: Check, number: str) -> tuple[int, int]:
    """Width and width of the projection of one CLIP encoder."""
    folder = found.folder / f"text_encoder{number}"
    config = _numbers(folder / "config.json", CLIP_DEFAULTS, "text_config")
    _refuse_other(folder, weight_files.TRANSFORMERS, tensor_names.clip(config), found.variant)
    if (positions := config["max_position_embeddings"]) < CLIP_TOKENS:
        words = f"`{folder / 'config.json'}`: max_position_embeddings={positions}"
        raise ModelError(f"{words}, and SD3's captions have {CLIP_TOKENS} tokens", hint=AGAIN)
    tokenizer = found.folder / f"tokenizer{number}"
    vocabulary = found.vocabularies[tokenizer.name]
    tokenizer_files.refuse_unfit(vocabulary, config["vocab_size"], folder)
    if (limit := vocabulary.max_length) is not None and limit < CLIP_TOKENS:
        words = f"`{tokenizer / tokenizer_files.CONFIG}`: model_max_length={limit}"
        raise ModelError(f"{words}, and SD3's captions have {CLIP_TOKENS} tokens", hint=AGAIN)
    _refuse_other_end(folder / "config.json", vocabulary)
    return config["hidden_size"], config["projection_dim"]


def _refuse_other_end(path: Path, vocabulary: Vocabulary) -> None:
    """The pooled vector is that of the token which ends the caption."""
    said = configs.read(path).get("eos_token_id")
    ends = vocabulary.ids.get(vocabulary.eos or "")
    if isinstance(said, int) and ends is not None and said not in (ends, LEGACY_EOS):
        raise ModelError(
            f"`{path}`: eos_token_id={said}, but `{vocabulary.folder}` ends captions with {ends}",
            hint=f"use a tokenizer and a text encoder of the same model, or {AGAIN}",
        )


def _refuse_other_widths(found: Check, clips: Sequence[tuple[int, int]]) -> None:
    """CLIP's hidden states are joined and padded to the width of a text token, and its projections
    are joined to the pooled vector."""
    (one, one_projected), (two, two_projected) = clips
    shape, encoders = found.shape, f"`{found.folder}`: text_encoder and text_encoder_2"
    if one + two > shape.joint_dim:
        words = f"{encoders} have the widths {one} and {two}, together more than the transformer's"
        raise ModelError(f"{words} {shape.joint_dim}", hint=SAME)
    if one_projected + two_projected != shape.pooled_dim:
        words = f"{encoders} have projections of width {one_projected} and {two_projected}"
        raise ModelError(f"{words}, together not the transformer's {shape.pooled_dim}", hint=SAME)


def _t5(found: Check) -> None:
    folder = found.folder / "text_encoder_3"
    config = _numbers(folder / "config.json", T5_DEFAULTS)
    if (width := config["d_model"]) != found.shape.joint_dim:
        words = f"`{folder}` is of width {width}, but the transformer takes"
        raise ModelError(f"{words} {found.shape.joint_dim}", hint=SAME)
    gated = str(configs.read(folder / "config.json").get("feed_forward_proj", "gated"))
    expected = tensor_names.t5(config, gated=gated.startswith("gated"))
    _refuse_other(folder, weight_files.TRANSFORMERS, expected, found.variant)
    vocabulary = found.vocabularies["tokenizer_3"]
    tokenizer_files.refuse_unfit(vocabulary, config["vocab_size"], folder)


def _vae(found: Check) -> None:
    folder = found.folder / "vae"
    path, channels = folder / "config.json", found.shape.channels
    config = configs.read(path)
    latents = _number(path, config, "latent_channels", 4)
    if latents != channels:
        raise ModelError(
            f"`{path}`: latent_channels={latents}, but the transformer takes {channels}",
            hint=f"use the VAE of the same model, or {AGAIN}",
        )
    _number(path, config, "layers_per_block", 1)
    widths = config.get("block_out_channels")
    levels = VAE_SCALE.bit_length()  # each level after the first halves the size
    if not (isinstance(widths, list) and len(widths) == levels and _positive(widths)):
        words = f"`{path}`: block_out_channels={str(widths)[:80]} is not {levels} widths"
        raise ModelError(f"{words}, as a VAE that divides by {VAE_SCALE} has", hint=AGAIN)
    for name in ("scaling_factor", "shift_factor"):
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), int | float):
            words = f"`{path}`: `{name}` is {str(config.get(name))[:40]}, and SD3's VAE has one"
            raise ModelError(words, hint=AGAIN)
    _refuse_other(folder, weight_files.DIFFUSERS, tensor_names.vae(config, latents), found.variant)


def check_transformer(folder: Path, shape: Transformer, variant: str | None) -> None:
    """Raises ModelError for missing tensors, and for tensors of another shape than config.json
    has. shape: as in config.json."""
    dual = configs.read(folder / "config.json").get("dual_attention_layers") or ()
    expected = tensor_names.transformer(shape, dual)
    _refuse_other(folder, weight_files.DIFFUSERS, expected, variant)


def _refuse_other(
    folder: Path, stem: str, expected: tensor_names.Expected, variant: str | None
) -> None:
    """Raises ModelError where the weights lack a tensor, or have one of another shape. Quantised
    weights pack their tensors, so only their files are checked."""
    held = weight_files.tensors(folder, stem, variant)
    if "quantization_config" in configs.read(folder / "config.json"):
        return
    shapes = {tensor_names.present_name(name): entry.shape for name, entry in held.items()}
    if missing := [name for name in expected if name not in shapes]:
        more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise ModelError(f"`{folder}`: tensor `{missing[0]}` is missing{more}", hint=AGAIN)
    for name, shape in expected.items():
        if shape is not None and shapes[name] != shape:
            raise ModelError(
                f"`{folder}`: tensor `{name}` has the shape {list(shapes[name])}, and config.json "
                f"says {list(shape)}",
                hint=AGAIN,
            )


def _numbers(path: Path, defaults: Mapping[str, int], inner: str = "") -> dict[str, int]:
    """The numbers of a config.json by their names, with the library's defaults. inner: the key of
    the object that holds them in the configuration of a larger model."""
    config = configs.read(path)
    config = config[inner] if isinstance(config.get(inner), dict) else config
    return {key: _number(path, config, key, default) for key, default in defaults.items()}


def _number(path: Path, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not _positive([value]):
        words = f"`{path}`: `{key}={str(value)[:40]}` is not a whole number above 0"
        raise ModelError(words, hint=AGAIN)
    return int(value)


def _positive(values: Iterable[object]) -> bool:
    return all(type(v) is int and v > 0 for v in values)
