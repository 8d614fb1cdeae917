"""Finds the safetensors files from which a library would load one part of a model folder, by their
names and the index of shards, and reads their headers.

The names are those that diffusers and transformers look for. Refuses a folder from which they would
load nothing, or something else.
"""

from collections.abc import Mapping
from pathlib import Path

from sd3tune.errors import ModelError
from sd3tune.filesystem import safetensors_header
from sd3tune.filesystem.safetensors_header import TensorEntry
from sd3tune.sd3 import configs
from sd3tune.sd3.configs import AGAIN

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # how the names of their files begin


def files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The files of the variant; those without a variant where it has none. stem: how their names
    begin. Raises ModelError where there are none."""
    source = _source(folder, stem, variant)
    if source.suffix == ".safetensors":
        return [source]
    return sorted({folder / name for name in _weight_map(source).values()})


def meant(where: Mapping[str, str], stem: str, *folders: Path) -> dict[str, str]:
    """The arguments of from_pretrained without a variant that none of the folders has: diffusers
    would refuse to load a part that its makers published in one format only."""
    variant = where.get("variant")
    if variant is None or not all(folder.is_dir() for folder in folders):
        return dict(where)
    if any(_named(folder, stem, variant) is not None for folder in folders):
        return dict(where)
    return {name: value for name, value in where.items() if name != "variant"}


def tensors(folder: Path, stem: str, variant: str | None = None) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor, from the headers. Raises ModelError, also for a tensor that is
    not in the shard for which the index names it."""
    found: dict[str, TensorEntry] = {}
    owner: dict[str, str] = {}
    for path in files(folder, stem, variant):
        held = safetensors_header.read(path).tensors
        found |= held
        owner |= dict.fromkeys(held, path.name)
    source = _source(folder, stem, variant)
    listed = {} if source.suffix == ".safetensors" else _weight_map(source)
    for name, file in listed.items():
        if owner.get(name) != file:
            words = f"`{source}`: tensor `{name[:200]}` is not in `{file[:200]}`"
            raise ModelError(words, hint=AGAIN)
    return found


def _source(folder: Path, stem: str, variant: str | None) -> Path:
    """The single file, or the index of the shards."""
    found = _named(folder, stem, variant) or _named(folder, stem, None)
    if found is None:
        raise _none(folder, stem, sorted(p.name for p in folder.glob("*.safetensors")))
    return found


def _named(folder: Path, stem: str, variant: str | None) -> Path | None:
    dotted = f".{variant}" if variant else ""
    names = (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file. Its files were checked by configs.check_part."""
    listed = configs.json_object(index).get("weight_map")
    return {str(k): str(v) for k, v in (listed if isinstance(listed, dict) else {}).items()}


def _none(folder: Path, stem: str, others: list[str]) -> ModelError:
    wanted = f"{stem}.safetensors"
    if not others:
        return ModelError(f"`{folder / wanted}` is missing", hint=AGAIN)
    kind = others[0].removeprefix(f"{stem}.").removesuffix(".safetensors")
    hint = AGAIN
    if others[0].startswith(f"{stem}.") and "-of-" not in kind:
        hint = f"set variant={kind}"
    elif "-of-" in others[0]:
        wanted = f"{stem}.safetensors.index.json"
    return ModelError(f"`{folder / wanted}` is missing; there is {others[0]}", hint=hint)
