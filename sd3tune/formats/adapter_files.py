"""Adapter files in and out, in the dialects that programs read. Zero modules, an unknown key or a
tensor nobody can carry over is an error, never a silent drop.

`read` takes any dialect; `write` takes one of:

diffusers  `transformer.<module>.lora_A/lora_B.weight`, alpha = rank, the scale in lora_B. No
           `.alpha`: diffusers refuses files with a key that lacks "lora".
comfyui    the same names with `.alpha`; LyCORIS as lycoris-lora names it; what ComfyUI would
           render wrong (DoRA) as full differences `.diff`.
kohya      `lora_unet_<original module>`, query, key and value fused, `.alpha`; else as comfyui.

Why these: docs/adr/0008-adapter-dialects.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.filesystem import drafts
from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import alpha, deltas, fused, keys, stamp
from sd3tune.formats.dialect import DIALECTS, Dialect, rendered
from sd3tune.formats.keys import Named
from sd3tune.formats.parts import AdapterFile, Base, Lora, Lycoris
from sd3tune.sd3 import finite

__all__ = ["DIALECTS", "AdapterFile", "Dialect", "read", "save", "write"]
LORA_PARTS = {"down", "up", "alpha", "magnitude", "dora_scale", "up_bias"}


def read(path: Path) -> AdapterFile:
    """Any adapter file of SD3, under diffusers' module names. Raises ModelError."""
    from safetensors.torch import load_file

    found = finite.check(path)
    grouped = keys.group(found.tensors)
    _refuse(path, grouped)
    said = alpha.said(path, found.metadata)
    tensors = load_file(path)
    modules: dict[str, Lora | Lycoris] = {}
    for named in grouped.modules.values():
        if alpha.is_untold(named.prefix, "alpha" in named.parts, found):
            raise ModelError(
                f"`{path}` says nowhere what its alpha is",
                hint=f"give {stamp.FILE} beside it, which does",
            )
        with understood(path, named.module):
            module = _module(found, named, tensors, said)
            split = (
                {named.module: module}
                if named.layout == "diffusers"
                else fused.split(named.module, module)
            )
        if twice := modules.keys() & split.keys():
            hint = "the file mixes two adapters: write each to a file of its own"
            raise ModelError(f"`{path}` has `{min(twice)}` under two names", hint=hint)
        modules |= split
    kept = {k: v for k, v in found.metadata.items() if k not in stamp.OWN}
    return AdapterFile(modules, kept)


@contextmanager
def understood(path: Path, module: str) -> Iterator[None]:
    """Tensors of a stranger may be missing, empty or of any shape: whatever arithmetic says of them
    becomes a ModelError."""
    try:
        yield
    except (ArithmeticError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ModelError(
            f"`{path}`: the tensors of `{module}` do not fit together: {e or type(e).__name__}",
            hint="the file is damaged, or of a kind sd3tune does not know",
        ) from None


def write(
    path: Path,
    adapter: AdapterFile,
    dialect: Dialect,
    *,
    base: Base | None = None,
    rank: int | None = None,
) -> tuple[str, ...]:
    """Writes the file whole or not at all, the same bytes for the same adapter; returns sentences
    about what could not be kept exactly.

    base: frozen weight (out, in) of a module; needed for DoRA in comfyui and kohya, and to turn
    DoRA'd LyCORIS, OFT and GLoRA into anything else. rank: what the dialect has no exact and small
    form for becomes a LoRA of that rank by a singular value decomposition. Raises ModelError when
    something cannot be carried over.
    """
    if not adapter.modules:
        raise ModelError(f"`{path}`: the adapter has no modules", hint="train something first")
    made = rendered(adapter.modules, dialect, base, rank)
    if dialect == "diffusers":
        ranked = {n: m for n, m in made.modules.items() if isinstance(m, Lora)}
        about = {alpha.KEY: stamp.peft_config(ranked)}
    else:
        about = {}
    described = stamp.described(made.modules, dialect)
    save(path, made.tensors, dict(adapter.metadata) | described | about)
    return made.notes


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, its metadata in order (the library's own order changes from run to run),
    under its name only once it is on the disk."""
    from safetensors.torch import save as serialised

    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = stamp.ordered(serialised(whole), {"format": "pt"} | dict(metadata))
    drafts.write(path, data)


def _refuse(path: Path, grouped: keys.Grouped) -> None:
    if grouped.unknown:
        more = f" and {len(grouped.unknown) - 1} more" if len(grouped.unknown) > 1 else ""
        raise ModelError(
            f"`{path}`: `{grouped.unknown[0]}`{more} is no adapter of an SD3 transformer",
            hint="`sd3tune inspect` says what the file is",
        )
    if grouped.text_encoders:
        raise ModelError(
            f"`{path}` adapts text encoders too (`{grouped.text_encoders[0]}`)",
            hint="sd3tune trains and converts the transformer only: use the file as it is, or "
            "take those keys out",
        )
    if not grouped.modules:
        raise ModelError(f"`{path}` is empty", hint="`sd3tune inspect` says what the file is")


def _module(
    found: Header, named: Named, tensors: Mapping[str, Tensor], said: alpha.Said | None
) -> Lora | Lycoris:
    path = found.path
    parts = {part: tensors[key] for part, key in named.parts.items()}
    value = found.number(named.parts["alpha"]) if parts.pop("alpha", None) is not None else None
    if empty := next((named.parts[p] for p, t in parts.items() if not t.numel()), None):
        raise ModelError(f"`{path}`: tensor `{empty}` is empty", hint="the file is damaged")
    if {"down", "up"} <= parts.keys() <= LORA_PARTS and _by_rows(parts.get("dora_scale")):
        return _lora(path, named, parts, value, said)
    if named.algorithm in ("lora", "incomplete"):
        raise ModelError(
            f"`{path}`: `{named.module}` has {', '.join(sorted(named.parts))} and cannot be "
            "understood from these",
            hint="the file is incomplete, or of a kind sd3tune does not know",
        )
    module = Lycoris(named.algorithm, parts, value)
    deltas.check(named.module, module)
    return module


def _lora(
    path: Path,
    named: Named,
    parts: Mapping[str, Tensor],
    value: float | None,
    said: alpha.Said | None,
) -> Lora:
    down, up = parts["down"], parts["up"]
    rank = int(down.shape[0])
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != rank:
        raise ModelError(
            f"`{path}`: `{named.module}` has lora_A {list(down.shape)} and lora_B {list(up.shape)}",
            hint="sd3tune converts LoRA of linear layers",
        )
    if value == 0:
        raise ModelError(
            f"`{path}`: `{named.module}` has alpha 0, which some programs read as alpha = rank",
            hint="write the file again with the alpha that is meant",
        )
    if value is None:
        value = (said or alpha.Said()).scale(named.module, rank) * rank
    magnitude = parts.get("magnitude", parts.get("dora_scale"))
    flat = None if magnitude is None else magnitude.flatten()
    return Lora(down, up, value, flat, parts.get("up_bias"))


def _by_rows(scale: Tensor | None) -> bool:
    """DoRA by columns, which LyCORIS also has, is no peft LoRA."""
    return scale is None or scale.ndim < 2 or scale.shape[1] == 1
