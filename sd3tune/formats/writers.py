"""An adapter as the tensors of one dialect: what each program reads exactly, or an error. The rows
of tables/dialects.py name these functions.

A module that a program would render wrong is converted: DoRA to a full difference for ComfyUI,
LyCORIS to a LoRA for diffusers when a rank is given.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import file_metadata, fused_qkv, number_types, scale
from sd3tune.formats.adapter_weights import (
    Base,
    LoraWeights,
    LycorisWeights,
    Modules,
    ModuleWeights,
)
from sd3tune.formats.low_rank import converted, with_magnitude
from sd3tune.formats.weight_deltas import delta, unbounded
from sd3tune.sd3 import module_names
from sd3tune.sd3.comfyui_rules import Network, misrendered
from sd3tune.tables.dialects import DIALECTS, Dialect, Keys, Part
from sd3tune.tables.table import load

Difference = tuple[Tensor, Tensor | None]  # of weight (out, in) and of bias (out,)
AS_THEY_ARE = ("locon", "loha", "lokr", "oft", "glora")  # ComfyUI has the tensors of these


@dataclass
class Rendered:
    """Tensors by key, the modules as they were written, metadata that belongs to them, and notes on
    what could not be kept exactly. widened: modules whose number type does not hold their scaled
    numbers, with that type and the one that they are stored in."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, ModuleWeights] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    widened: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)

    def stored(self, name: str, before: LoraWeights, after: LoraWeights) -> None:
        """Notes the number type that a module is stored in, where it is another than it had."""
        if before.up.dtype != after.up.dtype:
            self.widened[name] = before.up.dtype, after.up.dtype

    def explained(self) -> "Rendered":
        """The same with the number types that changed in its notes and its metadata."""
        counts = sorted((number_types.name(a), number_types.name(b), n)
                        for (a, b), n in Counter(self.widened.values()).items())  # fmt: skip
        if not counts:
            return self
        notes = [
            f"{n} modules are stored as {b}: {a} does not hold lora_B times alpha / rank"
            for a, b, n in counts
        ]
        text = ", ".join(f"{a} to {b} in {n} modules" for a, b, n in counts)
        about = {**self.metadata, file_metadata.WIDENED: text}
        return replace(self, notes=(*self.notes, *notes), metadata=about)


Writer: TypeAlias = Callable[[Dialect, Modules, Base | None, int | None], Rendered]


def rendered(modules: Modules, dialect: str, base: Base | None, rank: int | None) -> Rendered:
    """The adapter in a dialect of the table. Raises ModelError for what the dialect cannot hold,
    and for tensors that do not fit together."""
    row = DIALECTS[dialect]
    writer: Writer = load(row.writer)
    try:
        return writer(row, modules, base, rank).explained()
    except (ArithmeticError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ModelError(
            f"the tensors of this adapter do not fit together: {e or type(e).__name__}",
            hint="`sd3tune inspect` says more; the file, or --model, is of another model",
        ) from e


def size_bytes(modules: Mapping[str, LoraWeights], dialect: str) -> int:
    """Bytes of the tensors that `rendered` would make of LoRA; slightly too many where a layer of a
    fused matrix has no adapter."""
    row = DIALECTS[dialect]
    total, differences = 0, dict[str, int]()
    for name, m in modules.items():
        original = module_names.original_of(name)
        copies = 1 if original is None or original.part is None else module_names.QKV
        if m.magnitude is not None and row.dora == "difference" and original is not None:
            numbers = m.up.shape[0] * m.down.shape[1] * copies
            differences[original.original] = numbers * torch.float32.itemsize
            continue
        total += m.down.nbytes + m.up.nbytes * (copies if row.fused else 1)
        total += 0 if m.magnitude is None else m.magnitude.nbytes
    return total + sum(differences.values())


def diffusers(row: Dialect, modules: Modules, base: Base | None, rank: int | None) -> Rendered:
    """LoRA only, alpha = rank, with the LoraConfig that diffusers loads it with in the metadata."""
    others = [name for name, m in modules.items() if isinstance(m, LycorisWeights)]
    if others and rank is None:
        name, module = others[0], modules[others[0]]
        kind = module.algorithm if isinstance(module, LycorisWeights) else ""
        raise ModelError(
            f"diffusers' SD3 loader takes LoRA only, and `{name}` is {kind}",
            hint="--to comfyui keeps it exactly; --rank N makes a LoRA of that rank, with a "
            "stated error",
        )
    modules, notes = converted(modules, lambda n, m: isinstance(m, LycorisWeights), base, rank or 0)
    plain = {name: m for name, m in modules.items() if isinstance(m, LoraWeights)}
    dora = [name for name, m in plain.items() if m.magnitude is not None]
    if dora and len(dora) < len(plain):
        plain = {name: with_magnitude(name, m, base) for name, m in plain.items()}
    bias = any(m.bias is not None for m in plain.values())
    found = Rendered(notes=notes)
    for name, module in plain.items():
        m = module.folded()
        if bias and m.bias is None:  # peft has it on every module or on none
            m = replace(m, bias=m.up.new_zeros(m.up.shape[0]))
        found.modules[name] = m
        found.stored(name, module, m)
        found.tensors |= _lora(row, name, m)
    written = {n: m for n, m in found.modules.items() if isinstance(m, LoraWeights)}
    return replace(found, metadata={scale.KEY: file_metadata.peft_config(written)})


def comfyui(row: Dialect, modules: Modules, base: Base | None, rank: int | None) -> Rendered:
    """Query, key and value separate; modules that ComfyUI would render wrong become full
    differences."""
    modules, notes = _for_comfyui(modules, base, rank)
    found = Rendered(notes=notes)
    differences: dict[str, Difference] = {}
    for name, module in modules.items():
        if isinstance(module, LoraWeights) and _plain(module):
            found.tensors |= _lora(row, name, module)
        elif isinstance(module, LycorisWeights) and _kept(name, module):
            found.tensors |= _lycoris(row, name, module)
        else:
            differences[name] = delta(name, module, base)
            continue
        found.modules[name] = module
    return _with_differences(row, found, differences)


def kohya(row: Dialect, modules: Modules, base: Base | None, rank: int | None) -> Rendered:
    """A fused matrix has one entry: either all that changes it is plain LoRA, or its difference."""
    modules, notes = _for_comfyui(modules, base, rank)
    groups: dict[str, dict[str, ModuleWeights]] = {}
    for name, module in modules.items():
        groups.setdefault(_original(name), {})[name] = module
    found = Rendered(notes=notes)
    differences: dict[str, Difference] = {}
    for original, group in groups.items():
        plain = {n: m for n, m in group.items() if isinstance(m, LoraWeights) and _plain(m)}
        name, module = next(iter(group.items()))
        if plain.keys() == group.keys():
            joined = fused_qkv.fuse(plain)[original]
            found.tensors |= _lora(row, original, joined)
            found.modules[original] = joined
            for part, m in plain.items():
                found.stored(part, m, joined)
        elif isinstance(module, LycorisWeights) and _kept(name, module) and _same(name):
            found.tensors |= _lycoris(row, original, module)
            found.modules[name] = module
        else:
            differences |= {n: delta(n, m, base) for n, m in group.items()}
    return _with_differences(row, found, differences)


def _for_comfyui(
    modules: Modules, base: Base | None, rank: int | None
) -> tuple[Modules, tuple[str, ...]]:
    """The modules for ComfyUI. With a rank, modules that would become full differences become LoRA
    of that rank."""
    modules = _unbounded(modules)
    if rank is None:
        return modules, ()
    return converted(modules, lambda n, m: not _plain(m) and not _kept(n, m), base, rank)


def _original(name: str) -> str:
    original = module_names.original_of(name)
    if original is None:
        raise ModelError(
            f"`{name}` is not a module of an SD3 transformer", hint="use diffusers' names"
        )
    return original.original


def _same(name: str) -> bool:
    """Whether the module is the same matrix in both layouts."""
    original = module_names.original_of(name)
    adaln = name.endswith(("norm_out.linear", "norm1_context.linear"))
    return original is not None and original.part is None and not adaln


def _plain(module: ModuleWeights) -> bool:
    return isinstance(module, LoraWeights) and module.magnitude is None and module.bias is None


def _kept(name: str, module: ModuleWeights) -> bool:
    """LyCORIS that ComfyUI reads under lycoris-lora's names and renders as lycoris-lora does. It
    loses what `full` adds to the bias of a query, key or value."""
    if not isinstance(module, LycorisWeights) or module.algorithm not in AS_THEY_ARE:
        return False
    shapes = {part: tuple(t.shape) for part, t in module.tensors.items()}
    return misrendered(Network(name, module.algorithm, shapes, module.alpha)) is None


def _unbounded(modules: Modules) -> dict[str, ModuleWeights]:
    """Rotations without a constraint of their own, which ComfyUI would bound elsewhere."""
    return {name: unbounded(m) if _bounded(m) else m for name, m in modules.items()}


def _bounded(m: ModuleWeights) -> TypeGuard[LycorisWeights]:
    """Whether it is a rotation whose alpha ComfyUI misreads: a constraint, or none in BOFT."""
    if not isinstance(m, LycorisWeights) or m.algorithm != "oft":
        return False
    return bool(m.alpha) or (m.alpha is None and m.tensors["oft_blocks"].ndim == 4)


def _named(keys: Keys | None, module: str) -> str:
    """The beginning of the keys of a module."""
    assert keys is not None  # a writer writes what its row has keys for
    return keys.prefix + (module_names.flattened(module) if keys.flat else module)


def _lora(row: Dialect, name: str, m: LoraWeights) -> dict[str, Tensor]:
    """The tensors of a LoRA, in the row's own endings."""
    alpha = torch.tensor(m.alpha, dtype=torch.float32) if row.alpha == "tensor" else None
    values: dict[Part, Tensor | None] = {
        "down": m.down, "up": m.up, "up_bias": m.bias, "magnitude": m.magnitude, "alpha": alpha,
    }  # fmt: skip
    key = _named(row.keys, name)
    return {f"{key}{row.ending(part)}": v for part, v in values.items() if v is not None}


def _lycoris(row: Dialect, name: str, module: LycorisWeights) -> dict[str, Tensor]:
    key = _named(row.lycoris, name)
    found = {f"{key}.{part}": value for part, value in module.tensors.items()}
    if module.alpha is not None:
        found[f"{key}.alpha"] = torch.tensor(module.alpha, dtype=torch.float32)
    return found


def _with_differences(
    row: Dialect, found: Rendered, differences: Mapping[str, Difference]
) -> Rendered:
    """Adds full differences under the names of the original layout, where ComfyUI reads weight and
    bias."""
    parts = {name: (w if w.ndim else None, b) for name, (w, b) in differences.items()}
    for original, (weight, bias) in fused_qkv.fuse_differences(parts).items():
        key = _named(row.difference, original)
        if weight is not None:
            found.tensors[f"{key}.diff"] = weight
        if bias is not None:
            found.tensors[f"{key}.diff_b"] = bias
    for name, (weight, bias) in parts.items():
        both = {"diff": weight, "diff_b": bias}
        kept = {k: v for k, v in both.items() if v is not None}
        found.modules[name] = LycorisWeights("full", kept)
    return found
