"""Finds the model that the settings name (a diffusers folder, a hub id or one safetensors file) and
the source of each of its parts. Reads headers and JSON only; it reads no weights and loads no
torch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sd3tune.config.files.local_names import names_a_path
from sd3tune.errors import ErrorAndHint, ModelError
from sd3tune.filesystem import opening, safetensors_header
from sd3tune.sd3 import configs, hub, hub_refusals, model_folder, single, weight_files
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
TINY_VAE = "tiny_vae"  # in the folder of a model: diffusers' AutoencoderTiny
TAESD3 = "madebyollin/taesd3"  # the same for the VAE of the released models
FILES = (".safetensors", ".gguf", ".ckpt", ".pt", ".bin")  # all but the first are refused later


@dataclass(frozen=True)
class ModelRequest:
    """The model that the settings name.

    source: a folder, repository or file. transformer: the same for another transformer; None: that
    of `source`. subfolder: where the transformer is in its folder or repository. revision, variant:
    which files of `source` are meant, as from_pretrained takes them.
    """

    source: str
    transformer: str | None = None
    subfolder: str = "transformer"
    revision: str | None = None
    variant: str | None = None

    @property
    def composed(self) -> bool:
        """Whether the transformer has a source of its own."""
        return self.transformer is not None and self.transformer != self.source


def find(source: str, transformer: str | None = None, subfolder: str = "transformer") -> Model:
    """The model at `source`, or the model at `source` with another transformer. Raises ModelError.

    transformer: a folder, repository or file; subfolder: where the transformer is in that folder or
    repository. A single file provides the VAE if it contains one. Text encoders come from `source`,
    or from the repository of the released model if `source` is a file.
    """
    return find_named(ModelRequest(source, transformer, subfolder))


def find_whole(named: ModelRequest) -> Model:
    """The model, after checking by name that every part of its folders is there and fits the
    others. Raises ModelError with all problems."""
    problems: list[ErrorAndHint] = []
    model = None
    try:
        model = find_named(named)
    except ModelError as e:
        problems += e.problems
    model_like = model is not None or os.path.lexists(Path(named.source) / configs.INDEX)
    for more in _incomplete(named, model) if model_like else ():
        problems += [p for p in more.problems if p not in problems]
    if model is None or problems:
        raise ModelError.of(problems)
    return replace(model, tiny_vae=tiny_vae_of(model))


def tiny_vae_of(model: Model) -> str | None:
    """Where the tiny autoencoder of a model's latents is: in the folder of its VAE, or for the VAE
    of the released models in a repository. None: nobody has trained one."""
    folder = Path(model.source.vae) / TINY_VAE
    if (folder / "config.json").is_file():
        return str(folder)
    released = model.name in ARCHITECTURES and model.vae == VAE
    return TAESD3 if released else None


def _incomplete(named: ModelRequest, model: Model | None) -> Iterator[ModelError]:
    """What is wrong with the folders of a model. model: None where its shape is unknown."""
    shape = None if model is None else model.transformer
    folder = Path(named.source)
    if folder.is_dir() and opening.has_utf8_name(folder.absolute()):
        without = {"transformer"} if named.composed or shape is None else set()
        if model is not None and model.source.vae != model.source.base:
            without.add("vae")
        try:
            model_folder.check(folder, shape, without=without, variant=named.variant)
        except ModelError as e:
            yield e
    if named.composed and shape is not None and (other := Path(str(named.transformer))).is_dir():
        try:
            model_folder.check_transformer(other / named.subfolder, shape, None)
        except ModelError as e:
            yield e


def find_named(named: ModelRequest) -> Model:
    """The sources and sizes of a model. Raises ModelError."""
    source = named.source
    if named.composed:
        return _composed(named)
    if is_file(source):
        return _from_file(source)
    folder = Path(source)
    if folder.is_dir():
        _refuse_odd_name(folder)
        shape = folder_shape(folder, "transformer", MODEL)
        return Model(kind(shape), ModelSource.of(source), shape, *_sizes(named))
    if (row := of_repository(source)) is not None and named.revision is None:
        return Model(row.name, ModelSource.of(source), shape_of(row), TEXT_ENCODERS, VAE)
    if names_a_path(source, Path.cwd()):
        raise hub_refusals.no_such_path(MODEL, source)
    shape = from_config(hub.config(MODEL, source, "transformer", named.revision),
                        f"{MODEL}={source}")  # fmt: skip
    return Model(kind(shape), ModelSource.of(source), shape, TEXT_ENCODERS, VAE)


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


def _composed(named: ModelRequest) -> Model:
    """The text encoders of the source, which needs no transformer, with another transformer."""
    source, transformer, subfolder = named.source, str(named.transformer), named.subfolder
    if is_file(source):
        raise ModelError(
            f"`{MODEL}={source}` is a single file, and `{TRANSFORMER}` names another transformer",
            hint=f"set {MODEL} to a folder or repository with text encoders",
        )
    if not Path(source).is_dir() and names_a_path(source, Path.cwd()):
        raise hub_refusals.no_such_path(MODEL, source)
    where = ModelSource(source, transformer, source, subfolder)
    if is_file(transformer):
        held = single.contents(safetensors_header.read(Path(transformer)))
        shape, where = held.shape, replace(where, vae=transformer if held.vae else source)
    elif Path(transformer).is_dir():
        shape = folder_shape(Path(transformer), subfolder, TRANSFORMER)
    elif (row := of_repository(transformer)) is not None and subfolder == "transformer":
        shape = shape_of(row)
    elif names_a_path(transformer, Path.cwd()):
        raise hub_refusals.no_such_path(TRANSFORMER, transformer)
    else:
        shape = from_config(hub.config(TRANSFORMER, transformer, subfolder, None),
                            f"{TRANSFORMER}={transformer}")  # fmt: skip
    return Model(kind(shape), where, shape, *_sizes(named))


def folder_shape(folder: Path, subfolder: str, setting: str = "") -> Transformer:
    """The shape of a transformer, from its config.json. setting: the setting that names the folder,
    for messages. Raises ModelError."""
    path = folder / subfolder / "config.json"
    named = f"{setting}={folder}" if setting else str(folder)
    if not os.path.lexists(path):
        hint = "it must be a diffusers folder of SD3 or SD3.5; `sd3tune demo DIR` writes one"
        if models := _model_folders(folder, subfolder):
            hint = f"give {' or '.join(models)}"
        if setting == TRANSFORMER and (folder / "config.json").exists():
            hint = "set pretrained_transformer_subfolder=."
        raise ModelError(f"`{named}` holds no {subfolder}/config.json", hint=hint)
    shape = from_config(configs.read(path), named)
    configs.check_part(path.parent, "transformer")
    return shape


def _model_folders(folder: Path, subfolder: str) -> list[str]:
    """Folders of models around one that is none: above a part of a model, or inside it."""
    patterns = (f"*/{subfolder}/config.json", f"snapshots/*/{subfolder}/config.json")
    parts = sorted(path for pattern in patterns for path in folder.glob(pattern))
    above = [folder.parent] if (folder.parent / "model_index.json").exists() else []
    return [str(path) for path in (*above, *(part.parent.parent for part in parts[:3]))]


def _sizes(named: ModelRequest) -> tuple[tuple[int, int, int], int]:
    """Numbers of parameters: (CLIP-L, CLIP-G, T5), and the VAE."""
    folder = Path(named.source)
    if not folder.is_dir():
        return TEXT_ENCODERS, VAE
    stem, variant = weight_files.TRANSFORMERS, named.variant
    clip_l, clip_g, t5 = (_loaded_parameters(folder / name, stem, variant) for name in COMPONENTS)
    vae = _loaded_parameters(folder / "vae", weight_files.DIFFUSERS, variant)
    return (clip_l, clip_g, t5), vae or VAE


def _loaded_parameters(folder: Path, stem: str, variant: str | None) -> int:
    """Number of elements in the files that are loaded; 0 where they are missing or damaged, which
    `find_whole` refuses."""
    try:
        held = weight_files.tensors(folder, stem, variant)
    except ModelError:
        return 0
    return sum(entry.elements for entry in held.values())


def stored_parameters(folder: Path) -> int:
    """Number of elements in the safetensors files of a component, from their headers."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(e.elements for file in files for e in safetensors_header.read(file).tensors.values())
