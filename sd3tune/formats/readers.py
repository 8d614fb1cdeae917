"""Which programs read an adapter file, and what they make of it: from the keys alone.

Seen by running the programs on files of every kind: docs/guides/adapters.md.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import scale
from sd3tune.formats.key_names import FileKeys, ModuleKeys
from sd3tune.sd3 import module_names
from sd3tune.sd3.comfyui_rules import EXACT, Network, misrendered
from sd3tune.tables import dialects

Reads = Literal["yes", "wrong", "no", "unknown"]
Scaled: TypeAlias = list[tuple[ModuleKeys, float | None]]


@dataclass(frozen=True)
class Verdict:
    """Whether a program reads a file. wrong: it loads the file and renders something else."""

    reads: Reads
    reason: str


NO_MODULE = Verdict("no", "it does not hold a module of SD3")


def verdicts(
    header: Header, grouped: FileKeys, scaled: Scaled, declared: scale.DeclaredScale | None
) -> dict[str, Verdict]:
    """By program. scaled: each module with its alpha / rank. declared: of modules without a tensor
    that states it."""
    return {
        "sd3tune": _sd3tune(header, grouped, scaled),
        "diffusers": _diffusers(header, grouped, scaled, declared),
        "ComfyUI": _comfyui(header, grouped, scaled, declared),
    }


def _sd3tune(header: Header, grouped: FileKeys, scaled: Scaled) -> Verdict:
    if grouped.unknown:
        return Verdict("no", f"`{grouped.unknown[0]}` is not a key it knows")
    if grouped.text_encoders:
        return Verdict("no", "text encoders are adapted too")
    modules = grouped.modules.values()
    if any(scale.is_unknown(m.prefix, "alpha" in m.parts, header) for m in modules):
        return Verdict("no", "it does not state its alpha")
    if none := next((m.module for m, s in scaled if s == 0 and m.algorithm == "lora"), None):
        return Verdict("no", f"`{none}` has alpha 0, which some programs read as alpha = rank")
    every = (k for m in modules for k in m.parts.values())
    if empty := next((k for k in every if not header.tensors[k].elements), None):
        return Verdict("no", f"`{empty}` is empty")
    types = (
        (k, header.tensors[k].dtype) for m in modules for p, k in m.parts.items() if p != "alpha"
    )
    if whole := next(((k, t) for k, t in types if t.startswith(("I", "U", "BOOL"))), None):
        return Verdict("no", f"`{whole[0]}` is {whole[1]}, not floating-point numbers")
    odd = [m for m in modules if m.algorithm == "incomplete"]
    return Verdict("no", f"`{odd[0].module}` is incomplete") if odd else Verdict("yes", "")


def _diffusers(
    header: Header, grouped: FileKeys, scaled: Scaled, declared: scale.DeclaredScale | None
) -> Verdict:
    if odd := next((k for k in header.tensors if "lora" not in k), None):
        return Verdict("no", f'it refuses files with a key that lacks "lora", as `{odd}`')
    pairs = {(m.prefix, m.layout) for m in grouped.modules.values()}
    if other := next(iter(sorted(pairs - dialects.read_by("diffusers"))), None):
        words = f"`{other[0] or '(no prefix)'}` with {other[1]} names"
        return Verdict("no", f"it loads nothing of {words}, and only warns")
    if any(m.algorithm != "lora" for m in grouped.modules.values()):
        return Verdict("no", "it takes LoRA of two matrices only")
    if declared is not None and declared.source != scale.KEY and any(s != 1 for _, s in scaled):
        return Verdict("wrong", f"alpha is in {declared.source} alone, which it ignores: scale 1")
    return Verdict("yes", "") if pairs else NO_MODULE


def _network(header: Header, m: ModuleKeys) -> Network:
    """What ComfyUI's rules ask of a module."""
    shapes = {part: header.tensors[key].shape for part, key in m.parts.items()}
    alpha = header.number(m.parts["alpha"]) if "alpha" in m.parts else None
    name = m.module if m.layout == "diffusers" else ""
    return Network(name, m.algorithm, shapes, alpha)


def _moved(header: Header, m: ModuleKeys) -> bool:
    """Whether the module is a part of an original matrix, or its rows are in another order there:
    ComfyUI then loads no bias for it."""
    original = module_names.original_of(m.module)
    if original is None or m.layout != "diffusers":
        return False
    shape = header.tensors[m.parts["diff"]].shape if "diff" in m.parts else ()
    outputs, inputs = (shape[0], shape[-1]) if len(shape) > 1 else (2, 1)
    return original.part is not None or module_names.swaps(m.module, outputs, inputs)


def _comfyui(
    header: Header, grouped: FileKeys, scaled: Scaled, declared: scale.DeclaredScale | None
) -> Verdict:
    modules = list(grouped.modules.values())
    pairs = {(m.prefix, m.layout) for m in modules}
    if other := next(iter(sorted(pairs - dialects.read_by("ComfyUI"))), None):
        words = f"`{other[0] or '(no prefix)'}` with {other[1]} names"
        return Verdict("no", f"it loads nothing of {words}: log lines only")
    if any("magnitude" in m.parts for m in modules):
        return Verdict("wrong", "it does not know lora_magnitude_vector: plain LoRA is applied")
    for reason in filter(None, (misrendered(_network(header, m)) for m in modules)):
        return Verdict("wrong", reason)
    if any(s is not None and s != 1 and "alpha" not in m.parts for m, s in scaled):
        where = scale.BESIDE if declared and declared.source == scale.BESIDE else "the metadata"
        return Verdict("wrong", f"alpha is in {where} alone, which it ignores: scale 1")
    if any({"diff_b", "up_bias"} & m.parts.keys() and _moved(header, m) for m in modules):
        return Verdict("wrong", "it loses what is added to the bias of some layers, as of a query")
    if any("up_bias" in m.parts for m in modules):
        return Verdict("wrong", "it does not know the bias of lora_B")
    if odd := next((m.algorithm for m in modules if m.algorithm not in EXACT), None):
        return Verdict("unknown", f"{odd} was not tried")
    return Verdict("yes", "") if modules else NO_MODULE
