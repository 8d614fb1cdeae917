"""Finds the model that the settings name (a diffusers folder, a hub id or one safetensors file) and
the source of each of its parts. Reads headers and JSON only; it reads no weights and loads no
torch.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.sd3 import configs, single
from sd3tune.sd3.variants import (
    COMPONENTS,
    TEXT_ENCODERS,
    VAE,
    Model,
    ModelSource,
    Transformer,
    from_config,
    kind,
    shape_of,
)
from sd3tune.tables.architectures import ARCHITECTURES, of_repository

MODEL = "pretrained_model_name_or_path"
TRANSFORMER = "pretrained_transformer_model_name_or_path"
FILES = (".safetensors", ".gguf", ".ckpt", ".pt", ".bin")  # all but the first are refused later


def find(source: str, transformer: str | None = None, subfolder: str = "transformer") -> Model:
    """The model at `source`, or the model at `source` with another transformer. Raises ModelError.

    transformer: a folder, repository or file; subfolder: where the transformer is in that folder or
    repository. A single file provides the VAE if it contains one. Text encoders come from `source`,
    or from the repository of the released model if `source` is a file.
    """
    if transformer is not None and transformer != source:
        return _composed(source, transformer, subfolder)
    if is_file(source):
        return _from_file(source)
    folder = Path(source)
    if folder.is_dir():
        _refuse_odd_name(folder)
        shape = folder_shape(folder, "transformer", MODEL)
        configs.check_folder(folder)
        return Model(kind(shape), ModelSource.of(source), shape, *_sizes(source))
    if (row := of_repository(source)) is not None:
        return Model(row.name, ModelSource.of(source), shape_of(row), TEXT_ENCODERS, VAE)
    if (config := _hub_config(source, "transformer")) is not None:
        shape = from_config(config, f"{MODEL}={source}")
        return Model(kind(shape), ModelSource.of(source), shape, TEXT_ENCODERS, VAE)
    raise ModelError(
        f"`{MODEL}={source}` is not a folder or file here, and not a model that sd3tune knows",
        hint="give a diffusers folder, a safetensors file, or one of "
        + ", ".join(row.repository for row in ARCHITECTURES.rows),
    )


def _refuse_odd_name(folder: Path) -> None:
    """Raises ModelError: the libraries that read weights and tokenizers need names in UTF-8."""
    if not opening.has_utf8_name(folder.absolute()):
        raise ModelError(
            f"`{MODEL}={folder}`: the name of this folder or of a parent folder is not UTF-8",
            hint="rename it, or move the model",
        )


def is_file(source: str) -> bool:
    """Whether `source` is a single file, or has the suffix of one."""
    return source.endswith(FILES) or opening.is_regular(Path(source))


def _from_file(source: str) -> Model:
    held = single.contents(safetensors_header.read(Path(source)))
    name = kind(held.shape)
    base = ARCHITECTURES[name].repository if name in ARCHITECTURES else None
    if base is None:
        raise ModelError(
            f"`{MODEL}={source}` is a {name}, and no repository has text encoders for it",
            hint=f"set {MODEL} to the folder with its text encoders and {TRANSFORMER}={source}",
        )
    where = ModelSource(base, source, source if held.vae else base)
    return Model(name, where, held.shape, TEXT_ENCODERS, VAE)


def _composed(source: str, transformer: str, subfolder: str) -> Model:
    """The text encoders of `source`, which needs no transformer, with the transformer at
    `transformer`."""
    if is_file(source):
        raise ModelError(
            f"`{MODEL}={source}` is a single file, and `{TRANSFORMER}` names another transformer",
            hint=f"set {MODEL} to a folder or repository with text encoders",
        )
    if not Path(source).is_dir() and source.count("/") != 1:
        raise ModelError(f"`{MODEL}={source}` is not a folder here and not a repository",
                         hint="it must hold text encoders and tokenizers")  # fmt: skip
    where = ModelSource(source, transformer, source, subfolder)
    if is_file(transformer):
        held = single.contents(safetensors_header.read(Path(transformer)))
        shape, where = held.shape, replace(where, vae=transformer if held.vae else source)
    elif Path(transformer).is_dir():
        shape = folder_shape(Path(transformer), subfolder, TRANSFORMER)
    else:
        shape = _repository_shape(transformer, subfolder)
    if where.vae == source and Path(source).is_dir() and not (Path(source) / "vae").is_dir():
        raise ModelError(f"`{MODEL}={source}` holds no vae, and neither does {transformer}",
                         hint="give a folder with text encoders and VAE")  # fmt: skip
    if Path(source).is_dir():
        configs.check_folder(Path(source), [p for p in configs.PARTS if p != "transformer"])
    _same_width(source, shape)
    return Model(kind(shape), where, shape, *_sizes(source))


def _repository_shape(repository: str, subfolder: str) -> Transformer:
    if (row := of_repository(repository)) is not None and subfolder == "transformer":
        return shape_of(row)
    if (config := _hub_config(repository, subfolder)) is not None:
        return from_config(config, f"{TRANSFORMER}={repository}")
    raise ModelError(
        f"`{TRANSFORMER}={repository}` is not a folder or file here, and a repository of that name "
        f"with {subfolder}/config.json was not found on the hub",
        hint="give a safetensors file, a folder, or a repository and pretrained_transformer_"
        "subfolder",
    )


def folder_shape(folder: Path, subfolder: str, setting: str = "") -> Transformer:
    """The shape of a transformer, from its config.json. setting: the setting that names the folder,
    for messages. Raises ModelError."""
    path = folder / subfolder / "config.json"
    named = f"{setting}={folder}" if setting else str(folder)
    if not os.path.lexists(path):
        hint = "it must be a diffusers folder of SD3 or SD3.5; `sd3tune demo DIR` writes one"
        if setting == TRANSFORMER and (folder / "config.json").exists():
            hint = "set pretrained_transformer_subfolder=."
        raise ModelError(f"`{named}` holds no {subfolder}/config.json", hint=hint)
    shape = from_config(configs.read(path), named)
    configs.check_part(path.parent, "transformer")
    return shape


def _same_width(source: str, shape: Transformer) -> None:
    """Raises ModelError if the width of the text encoders differs from what the transformer takes:
    the first step would fail."""
    path = Path(source) / "text_encoder_3" / "config.json"
    width = configs.read(path).get("d_model") if path.exists() else None
    if width not in (None, shape.joint_dim):
        raise ModelError(
            f"`{MODEL}={source}` has text encoders of width {width}, but the transformer takes "
            f"{shape.joint_dim}",
            hint=f"use both from the same model family, or leave {TRANSFORMER} out",
        )


def _sizes(source: str) -> tuple[tuple[int, int, int], int]:
    """Numbers of parameters: (CLIP-L, CLIP-G, T5), and the VAE."""
    folder = Path(source)
    if not folder.is_dir():
        return TEXT_ENCODERS, VAE
    clip_l, clip_g, t5 = (stored_parameters(folder / name) for name in COMPONENTS)
    return (clip_l, clip_g, t5), stored_parameters(folder / "vae") or VAE


def stored_parameters(folder: Path) -> int:
    """Number of elements in the safetensors files of a component, from their headers."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(e.elements for file in files for e in safetensors_header.read(file).tensors.values())


def _hub_config(repository: str, subfolder: str) -> dict[str, Any] | None:
    """config.json of a repository (a few hundred bytes); None if it cannot be downloaded."""
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = hf_hub_download(repository, f"{subfolder}/config.json", etag_timeout=5)
    except (OSError, HfHubHTTPError, HFValidationError):  # no network, no such repository, gated
        return None
    return configs.read(Path(path))
