"""`sd3tune export`: an adapter in another program's dialect, or a transformer as one file.

Nothing is dropped: a part that the dialect cannot hold is an error, with a hint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sd3tune.errors import ConfigError, ModelError
from sd3tune.formats import adapter_files, file_metadata
from sd3tune.formats.adapter_folder import adapter_of
from sd3tune.formats.adapter_weights import Base
from sd3tune.formats.identify import identify
from sd3tune.report.quiet import quiet_libraries
from sd3tune.sd3 import models, variants, weights
from sd3tune.sd3.original import to_original
from sd3tune.tables.dialects import DIALECTS


@dataclass(frozen=True)
class Exported:
    path: Path
    modules: int  # of an adapter; tensors of a model
    notes: tuple[str, ...]  # what was assumed, and what could not be kept exactly


def export(
    source: Path,
    dialect: str,
    *,
    output: Path | None = None,
    model: str | None = None,
    rank: int | None = None,
    force: bool = False,
) -> Exported:
    """Writes `source` in a dialect. source: an adapter file, a folder that holds one (of a run, a
    checkpoint, or peft's), or a diffusers folder of a model or transformer, which comfyui takes as
    one file in the original layout.

    model: the base an adapter was trained on, where its weights are needed. Raises Sd3tuneError.
    """
    if source.is_dir():
        found = identify(source)
        if found.kind in ("model folder", "transformer folder"):
            return _model(source, dialect, output, force)
        if found.facts.get("damage"):
            raise ModelError(
                f"`{source}` is damaged: {found.facts['damage']}",
                hint="take the checkpoint before it",
            )
    file = adapter_of(source)
    dialect = DIALECTS[dialect].name  # of its aliases
    target = output or file.with_name(f"{file.stem}.{dialect}.safetensors")
    _check(target, file, force)
    adapter = adapter_files.read(file)
    base = None if model is None else base_of(model)
    with _writing(target):
        notes = adapter_files.write(target, adapter, dialect, base=base, rank=rank)
    return Exported(target, len(adapter.modules), (*adapter.assumed, *notes))


def base_of(model: str) -> Base:
    """The frozen weights (out, in) of a model, by diffusers' module names. The model is loaded when
    the first weight is read."""
    found = models.find(model)
    loaded: dict[str, Any] = {}

    def weight(name: str) -> Tensor:
        if not loaded:
            quiet_libraries()
            loaded["model"] = weights.transformer(weights.local(found.source), "fp32")
        module: Any = loaded["model"].get_submodule(name)
        taken: Tensor = module.weight.detach()
        return taken

    return weight


def _model(source: Path, dialect: str, output: Path | None, force: bool) -> Exported:
    if dialect != "comfyui":
        raise ConfigError(
            f"`--to {dialect}` is for adapters, and `{source}` is a whole model",
            hint="--to comfyui writes its transformer as one file in the original layout",
        )
    inside = (source / "transformer").is_dir()
    folder = source / "transformer" if inside else source
    target = output or source.with_name(f"{source.name}.safetensors")
    _check(target, source, force)
    name = variants.kind(models.folder_shape(folder, "."))
    tensors = to_original(weights.state(folder))
    about = file_metadata.modelspec(name, title=source.name, resolution=1024, kind="")
    implementation = {"modelspec.implementation": DIALECTS["kohya"].implementation}
    with _writing(target):
        adapter_files.save(target, tensors, about | implementation)
    return Exported(target, len(tensors), ())


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ModelError(
            f"cannot write `{target}`: {e.strerror or e}",
            hint="free some space, or give another --output",
        ) from None


def _check(target: Path, source: Path, force: bool) -> None:
    if target.exists() and target.resolve() == source.resolve():
        raise ConfigError(f"`--output {target}` is the source itself", hint="choose another name")
    if target.exists() and not force:
        raise ConfigError(f"`{target}` exists", hint="--force writes over it, --output elsewhere")
