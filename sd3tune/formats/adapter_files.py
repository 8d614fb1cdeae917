"""Reads and writes adapter files in the dialects of tables/dialects.py. A file without modules, an
unknown key, or a tensor that the dialect cannot hold is an error: nothing is dropped silently.

Why these dialects: docs/adr/0008-adapter-dialects.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sd3tune.data import safetensors_writer
from sd3tune.errors import ModelError
from sd3tune.filesystem import drafts
from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import (
    file_metadata,
    fused_qkv,
    key_names,
    number_types,
    scale,
    weight_deltas,
)
from sd3tune.formats.adapter_description import assumptions
from sd3tune.formats.adapter_weights import (
    AdapterFile,
    Base,
    LoraWeights,
    LycorisWeights,
    ModuleWeights,
)
from sd3tune.formats.key_names import FileKeys, ModuleKeys
from sd3tune.formats.writers import rendered
from sd3tune.sd3 import finite
from sd3tune.sd3.comfyui_rules import is_by_rows

__all__ = ["AdapterFile", "read", "save", "write"]
LOG = logging.getLogger(__name__)
LORA_PARTS = {"down", "up", "alpha", "magnitude", "dora_scale", "up_bias"}


def read(path: Path) -> AdapterFile:
    """The modules of any SD3 adapter file, by diffusers' names. Raises ModelError for a file that
    is damaged, of another model, or of unknown alpha."""
    from safetensors.torch import load_file

    found = finite.check(path)
    grouped = key_names.group(found.tensors)
    _refuse(path, grouped)
    declared = scale.declared(path, found.metadata, needed=not grouped.states_alpha)
    tensors = load_file(path)
    modules: dict[str, ModuleWeights] = {}
    for named in grouped.modules.values():
        if scale.is_unknown(named.prefix, "alpha" in named.parts, found):
            raise ModelError(
                f"`{path}` does not state its alpha",
                hint=f"give {file_metadata.FILE} beside it, which states it",
            )
        with understood(path, named.module):
            module = _module(found, named, tensors, declared)
            split = (
                {named.module: module}
                if named.layout == "diffusers"
                else fused_qkv.split(named.module, module)
            )
        if twice := modules.keys() & split.keys():
            hint = "the file mixes two adapters: write each to a file of its own"
            raise ModelError(f"`{path}` has `{min(twice)}` under two names", hint=hint)
        modules |= split
    kept = {k: v for k, v in found.metadata.items() if k not in file_metadata.OWN}
    LOG.debug(f"{path}: {len(modules)} modules read from {len(found.tensors)} tensors")
    return AdapterFile(modules, kept, assumptions(grouped, declared))


@contextmanager
def understood(path: Path, module: str) -> Iterator[None]:
    """Turns whatever arithmetic raises into a ModelError: in a file of another origin, tensors may
    be missing, empty or of any shape."""
    try:
        yield
    except (ArithmeticError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ModelError(
            f"`{path}`: the tensors of `{module}` do not fit together: {e or type(e).__name__}",
            hint="the file is damaged, or of a kind that sd3tune does not know",
        ) from None


def write(
    path: Path,
    adapter: AdapterFile,
    dialect: str,
    *,
    base: Base | None = None,
    rank: int | None = None,
    synced: bool = True,
) -> tuple[str, ...]:
    """Writes the file whole or not at all, the same bytes for the same adapter; returns sentences
    about what could not be kept exactly.

    dialect: a name of tables/dialects.py. base: frozen weight (out, in) of a module; needed for
    DoRA in comfyui and kohya, and to turn DoRA'd LyCORIS, OFT and GLoRA into anything else. rank:
    what the dialect has no exact and small form for becomes a LoRA of that rank by a singular value
    decomposition. synced: see `save`. Raises ModelError when something cannot be carried over.
    """
    if not adapter.modules:
        raise ModelError(f"`{path}`: the adapter has no modules", hint="train something first")
    made = rendered(adapter.modules, dialect, base, rank)
    described = file_metadata.described(made.modules, dialect)
    metadata = dict(adapter.metadata) | described | dict(made.metadata)
    save(path, made.tensors, metadata, synced=synced)
    LOG.debug(f"{path}: {len(made.modules)} modules in the dialect {dialect}")
    return made.notes


def save(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str], *, synced: bool = True
) -> None:
    """Writes a safetensors file, which has its name only once it is on the disk. about: its
    metadata. synced=False: in a draft folder, whose owner syncs its files together."""
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    pieces = safetensors_writer.contents(whole, {"format": "pt"} | dict(about))
    drafts.write(path, b"".join(pieces), synced=synced)


def _refuse(path: Path, grouped: FileKeys) -> None:
    if grouped.unknown:
        more = f" and {len(grouped.unknown) - 1} more" if len(grouped.unknown) > 1 else ""
        raise ModelError(
            f"`{path}`: `{grouped.unknown[0]}`{more} is not a part of an SD3 adapter",
            hint=_hint(grouped.unknown),
        )
    if grouped.text_encoders:
        raise ModelError(
            f"`{path}` adapts text encoders too (`{grouped.text_encoders[0]}`)",
            hint="sd3tune trains and converts the transformer only: use the file as it is, or "
            "remove these keys",
        )
    if not grouped.modules:
        raise ModelError(f"`{path}` is empty", hint="`sd3tune inspect` says what the file is")


def _hint(unknown: Sequence[str]) -> str:
    if any(key_names.whole_weight_of(key) for key in unknown):
        return (
            "the file holds whole weights beside its LoRA (peft's modules_to_save, or bias other "
            "than none): merge it into the model with peft's merge_and_unload"
        )
    return "`sd3tune inspect` says what the file is"


def _module(
    found: Header,
    named: ModuleKeys,
    tensors: Mapping[str, Tensor],
    declared: scale.DeclaredScale | None,
) -> ModuleWeights:
    path = found.path
    parts = {part: tensors[key] for part, key in named.parts.items()}
    value = found.number(named.parts["alpha"]) if parts.pop("alpha", None) is not None else None
    if value is None and declared is not None and named.ranked_by is not None:
        rank = found.tensors[named.ranked_by].shape[0]
        value = declared.of(named.module, rank) * rank
    if empty := next((named.parts[p] for p, t in parts.items() if not t.numel()), None):
        raise ModelError(f"`{path}`: tensor `{empty}` is empty", hint="the file is damaged")
    if whole := next((named.parts[p] for p, t in parts.items() if not t.is_floating_point()), None):
        kind = number_types.name(tensors[whole].dtype)
        raise ModelError(
            f"`{path}`: tensor `{whole}` is {kind}, not floating-point numbers",
            hint="use the file from before it was quantised",
        )
    if {"down", "up"} <= parts.keys() <= LORA_PARTS:
        if value == 0:
            raise ModelError(
                f"`{path}`: `{named.module}` has alpha 0, which some programs read as alpha = rank",
                hint="write the file again with the alpha that is meant",
            )
        if not _by_columns(parts.get("dora_scale")):
            return _lora(path, named, parts, value, declared)
        names = {"down": "lora_down.weight", "up": "lora_up.weight", "dora_scale": "dora_scale"}
        if parts.keys() == names.keys():
            held = {names[part]: t for part, t in parts.items()}
            return LycorisWeights("locon", held, value or float(parts["down"].shape[0]))
    if named.algorithm in ("lora", "incomplete"):
        raise ModelError(
            f"`{path}`: `{named.module}` has {', '.join(sorted(named.parts))} and cannot be "
            "understood from these",
            hint="the file is incomplete, or of a kind sd3tune does not know",
        )
    module = LycorisWeights(named.algorithm, parts, value)
    weight_deltas.check(named.module, module)
    return module


def _lora(
    path: Path,
    named: ModuleKeys,
    parts: Mapping[str, Tensor],
    value: float | None,
    declared: scale.DeclaredScale | None,
) -> LoraWeights:
    down, up = parts["down"], parts["up"]
    rank = int(down.shape[0])
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != rank:
        raise ModelError(
            f"`{path}`: `{named.module}` has lora_A {list(down.shape)} and lora_B {list(up.shape)}",
            hint="sd3tune converts LoRA of linear layers",
        )
    if value is None:
        value = (declared or scale.DeclaredScale()).of(named.module, rank) * rank
    magnitude = parts.get("magnitude", parts.get("dora_scale"))
    flat = None if magnitude is None else magnitude.flatten()
    return LoraWeights(down, up, value, flat, parts.get("up_bias"))


def _by_columns(scale: Tensor | None) -> bool:
    """Whether a DoRA magnitude is by columns, as LyCORIS has it with wd_on_output=false; in peft it
    is by rows."""
    return scale is not None and not is_by_rows(tuple(scale.shape))
