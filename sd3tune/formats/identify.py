"""What a file or folder is: an adapter, a model in one file, a checkpoint, a diffusers folder.

Headers and JSON only; of a checkpoint every byte, since that is how one knows that it is whole.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError, Sd3tuneError
from sd3tune.filesystem import safetensors_header
from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import file_metadata, finished_run, key_names, manifest
from sd3tune.formats.adapter_description import AdapterDescription, describe, is_adapter
from sd3tune.formats.adapter_folder import adapter_of, adapters_in
from sd3tune.sd3 import configs, models, single
from sd3tune.sd3.variants import kind

ADAPTERS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
NOT_SHOWN = ("lora_adapter_metadata",)  # metadata whose meaning is shown instead


@dataclass(frozen=True)
class Identified:
    """A file or folder. kind: `adapter`, `model file`, `checkpoint`, `model folder`,
    `transformer folder`, `output folder`, `adapter folder` or `other`."""

    path: Path
    kind: str
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON-ready, in the order to show
    adapter: AdapterDescription | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def identify(path: Path) -> Identified:
    """What lies at `path`. Raises ModelError for what is not there, damaged, or not a safetensors
    file."""
    if path.is_dir():
        return _folder(path)
    if not os.path.lexists(path):
        hint = "give a .safetensors file, a checkpoint or a model folder"
        raise ModelError(f"`{path}` does not exist", hint=hint)
    found = safetensors_header.read(path)
    facts = _facts(found)
    metadata = {k: v for k, v in found.metadata.items() if k not in NOT_SHOWN}
    if single.is_original(found.tensors) and not key_names.group(found.tensors).modules:
        return _original(found, facts, metadata)
    if is_adapter(found):
        what = describe(found)
        kinds = ", ".join(what.algorithms) or "nothing sd3tune knows"
        summary = f"adapter ({kinds}) for {what.model}"
        return Identified(path, "adapter", summary, facts, what, metadata)
    if any(n.startswith("transformer_blocks.0.") for n in found.tensors):
        summary = "an SD3 transformer in diffusers' layout: the weights of a transformer folder"
        return Identified(path, "model file", summary, facts, None, metadata)
    summary = "tensors of no SD3 transformer and no adapter of one"
    return Identified(path, "other", summary, facts, None, metadata)


def _facts(found: Header) -> dict[str, Any]:
    types = Counter[str]()
    for entry in found.tensors.values():
        types[entry.dtype] += entry.elements
    return {
        "tensors": len(found.tensors),
        "parameters": sum(types.values()),
        "size_bytes": found.path.stat().st_size,
        "dtypes": dict(types.most_common()),
    }


def _original(found: Header, facts: dict[str, Any], metadata: dict[str, str]) -> Identified:
    held = single.contents(found)
    parts = ["transformer", *(["vae"] if held.vae else []), *held.encoders]
    name = kind(held.shape)
    facts = {"model": name, "contains": parts, "prefix": held.prefix, "blocks": held.shape.layers,
             "width": held.shape.hidden} | facts  # fmt: skip
    summary = f"{name} in one file, original layout: {', '.join(parts)}"
    return Identified(found.path, "model file", summary, facts, None, metadata)


def _folder(folder: Path) -> Identified:
    try:
        held = {p.name for p in folder.iterdir()}
    except OSError as e:
        words = f"`{folder}` cannot be read: {e.strerror}"
        raise ModelError(words, hint="check its permissions") from None
    if "state.json" in held or "manifest.json" in held:
        return _checkpoint(folder)
    if configs.INDEX in held:
        return _model(folder)
    if "config.json" in held:
        return _transformer(folder)
    checkpoints = sorted(p.name for p in folder.glob("checkpoint-*"))
    if checkpoints or (folder / file_metadata.FILE).exists():
        return _output(folder, checkpoints)
    if not any(p.suffix in ADAPTERS for p in (*folder.iterdir(), *folder.glob("*/*.safetensors"))):
        hint = "give a .safetensors file, a checkpoint or a model folder"
        raise ModelError(f"`{folder}` holds nothing sd3tune knows", hint=hint)
    return _around(folder, adapter_of(folder))


def _around(folder: Path, file: Path) -> Identified:
    """A folder of one file."""
    held = identify(file)
    if held.adapter is None:
        return held
    summary = f"folder with {file.relative_to(folder)}: {held.summary}"
    return replace(held, path=folder, kind="adapter folder", summary=summary)


def _checkpoint(folder: Path) -> Identified:
    wrong = manifest.damage(folder)
    try:
        step = manifest.facts(folder).step
    except (OSError, ValueError):
        step = None
    files = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()}
    facts = {"step": step, "whole": wrong is None, "damage": wrong, "files": files}
    words = "whole" if wrong is None else f"damaged: {wrong}"
    at = "an unknown step" if step is None else f"step {step}"
    inside = None if wrong is not None else _adapter_inside(folder)
    return Identified(
        folder, "checkpoint", f"checkpoint of sd3tune at {at}, {words}", facts, inside
    )


def _model(folder: Path) -> Identified:
    parts = {}
    for name, (_, kept) in configs.parts_of(folder / configs.INDEX).items():
        files = sorted((folder / name).glob("*.safetensors"))
        parts[name] = {"class": kept, "parameters": models.stored_parameters(folder / name),
                       "size_bytes": sum(f.stat().st_size for f in files)}  # fmt: skip
    try:
        name = models.find(str(folder)).name
    except Sd3tuneError as e:
        return Identified(
            folder,
            "model folder",
            f"diffusers folder that cannot be trained: {e}",
            {"components": parts},
        )
    return Identified(
        folder,
        "model folder",
        f"{name} as a diffusers folder",
        {"model": name, "components": parts},
    )


def _transformer(folder: Path) -> Identified:
    shape = models.folder_shape(folder, ".")
    facts = {"model": kind(shape), "parameters": models.stored_parameters(folder)}
    summary = f"transformer of {kind(shape)}, diffusers' layout"
    return Identified(folder, "transformer folder", summary, facts)


def _output(folder: Path, checkpoints: list[str]) -> Identified:
    results = [str(file.relative_to(folder)) for file in adapters_in(folder)]
    if (folder / finished_run.MODEL).exists():
        results.append(str(Path(finished_run.MODEL).parents[1]))
    facts: dict[str, Any] = {"checkpoints": checkpoints}
    summary = f"output of a run, {'finished' if results else 'not finished'}"
    if len(results) > 1:
        summary = f"output of runs with {len(results)} results"
        facts["results"] = results
    return Identified(folder, "output folder", summary, facts, _adapter_inside(folder))


def _adapter_inside(folder: Path) -> AdapterDescription | None:
    """Of the adapter of a run or a checkpoint, where it holds one."""
    try:
        file = adapter_of(folder)
    except ModelError:
        return None
    return identify(file).adapter
