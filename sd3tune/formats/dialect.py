"""An adapter as the tensors of one dialect: what each program reads exactly, or an error.

What a program would render wrong becomes something it renders right: DoRA a full difference for
ComfyUI, LyCORIS a LoRA for diffusers when a rank for it is given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import fused
from sd3tune.formats.deltas import delta
from sd3tune.formats.parts import Base, Lora, Lycoris
from sd3tune.sd3 import dialects

Dialect = Literal["diffusers", "comfyui", "kohya"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
Module = Lora | Lycoris
AS_THEY_ARE = ("loha", "lokr", "oft", "glora")  # LyCORIS that ComfyUI renders as lycoris-lora does


@dataclass
class Rendered:
    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)  # as they were written
    notes: tuple[str, ...] = ()


def rendered(
    modules: Mapping[str, Module], dialect: Dialect, base: Base | None, rank: int | None
) -> Rendered:
    """Raises ModelError, also for tensors that do not fit together."""
    try:
        return _rendered(modules, dialect, base, rank)
    except (ArithmeticError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ModelError(
            f"the tensors of this adapter do not fit together: {e or type(e).__name__}",
            hint="`sd3tune inspect` says more; the file, or --model, is of another model",
        ) from e


def size_bytes(modules: Mapping[str, Lora], dialect: Dialect) -> int:
    """Of what `rendered` makes of LoRA, without making it; a little more where layers of a fused
    matrix have no adapter."""
    total, differences = 0, dict[str, int]()
    for name, m in modules.items():
        place = None if dialect == "diffusers" else dialects.place(name)
        copies = dialects.QKV if place is not None and place.part is not None else 1
        if place is not None and m.magnitude is not None:
            numbers = m.up.shape[0] * m.down.shape[1] * copies
            differences[place.original] = numbers * torch.float32.itemsize
            continue
        total += m.down.nbytes + m.up.nbytes * (copies if dialect == "kohya" else 1)
        total += 0 if m.magnitude is None else m.magnitude.nbytes
    return total + sum(differences.values())


def _rendered(
    modules: Mapping[str, Module], dialect: Dialect, base: Base | None, rank: int | None
) -> Rendered:
    if dialect == "diffusers":
        return _diffusers(modules, base, rank)
    notes: tuple[str, ...] = ()
    if rank is not None:
        modules, notes = _reduced(modules, lambda m: not _plain(m) and not _kept(m), base, rank)
    found = (_comfyui if dialect == "comfyui" else _kohya)(modules, base)
    return replace(found, notes=notes)


def _diffusers(modules: Mapping[str, Module], base: Base | None, rank: int | None) -> Rendered:
    others = [name for name, m in modules.items() if isinstance(m, Lycoris)]
    if others and rank is None:
        name, module = others[0], modules[others[0]]
        kind = module.algorithm if isinstance(module, Lycoris) else ""
        raise ModelError(
            f"diffusers' SD3 loader takes LoRA only, and `{name}` is {kind}",
            hint="--to comfyui keeps it exactly; --rank N makes a LoRA of that rank, with a "
            "stated error",
        )
    modules, notes = _reduced(modules, lambda m: isinstance(m, Lycoris), base, rank or 0)
    plain = {name: m for name, m in modules.items() if isinstance(m, Lora)}
    dora = [name for name, m in plain.items() if m.magnitude is not None]
    if dora and len(dora) < len(plain):
        plain = {name: _with_magnitude(name, m, base) for name, m in plain.items()}
    bias = any(m.bias is not None for m in plain.values())
    found = Rendered(notes=notes)
    for name, module in plain.items():
        m = module.folded()
        if bias and m.bias is None:  # peft has it on every module or on none
            m = replace(m, bias=m.up.new_zeros(m.up.shape[0]))
        found.modules[name] = m
        tensors = {"lora_A.weight": m.down, "lora_B.weight": m.up, "lora_B.bias": m.bias,
                   "lora_magnitude_vector": m.magnitude}  # fmt: skip
        kept = {k: v for k, v in tensors.items() if v is not None}
        found.tensors |= {f"transformer.{name}.{k}": v for k, v in kept.items()}
    return found


def _comfyui(modules: Mapping[str, Module], base: Base | None) -> Rendered:
    found = Rendered()
    differences: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, module in modules.items():
        if isinstance(module, Lora) and _plain(module):
            found.tensors |= _lora(f"transformer.{name}", module, "lora_A", "lora_B")
        elif isinstance(module, Lycoris) and _kept(module):
            found.tensors |= _lycoris(f"lycoris_{dialects.flattened(name)}", module)
        else:
            differences[name] = delta(name, module, base)
            continue
        found.modules[name] = module
    return _with_differences(found, differences, "diffusion_model.")


def _kohya(modules: Mapping[str, Module], base: Base | None) -> Rendered:
    """A fused matrix has one entry: either all that changes it is plain LoRA, or its difference."""
    groups: dict[str, dict[str, Module]] = {}
    for name, module in modules.items():
        groups.setdefault(_original(name), {})[name] = module
    found = Rendered()
    differences: dict[str, tuple[Tensor, Tensor | None]] = {}
    for original, group in groups.items():
        key = f"lora_unet_{dialects.flattened(original)}"
        plain = {n: m for n, m in group.items() if isinstance(m, Lora) and _plain(m)}
        name, module = next(iter(group.items()))
        if plain.keys() == group.keys():
            joined = fused.fuse(plain)[original]
            found.tensors |= _lora(key, joined, "lora_down", "lora_up")
            found.modules[original] = joined
        elif isinstance(module, Lycoris) and _kept(module) and _same(name):
            found.tensors |= _lycoris(key, module)
            found.modules[name] = module
        else:
            differences |= {n: delta(n, m, base) for n, m in group.items()}
    return _with_differences(found, differences, "lora_unet_")


def _original(name: str) -> str:
    place = dialects.place(name)
    if place is None:
        raise ModelError(f"`{name}` is no module of an SD3 transformer", hint="name it so")
    return place.original


def _same(name: str) -> bool:
    """The same matrix in both layouts, for certain."""
    place = dialects.place(name)
    adaln = name.endswith(("norm_out.linear", "norm1_context.linear"))
    return place is not None and place.part is None and not adaln


def _plain(module: Module) -> bool:
    return isinstance(module, Lora) and module.magnitude is None and module.bias is None


def _kept(module: Module) -> bool:
    """LyCORIS that ComfyUI reads under lycoris-lora's names. It divides DoRA by another length than
    the paper, and loses what `full` adds to the bias of a query, key or value."""
    return isinstance(module, Lycoris) and module.algorithm in AS_THEY_ARE and not module.dora


def _lora(key: str, module: Lora, down: str, up: str) -> dict[str, Tensor]:
    return {
        f"{key}.{down}.weight": module.down,
        f"{key}.{up}.weight": module.up,
        f"{key}.alpha": torch.tensor(module.alpha, dtype=torch.float32),
    }


def _lycoris(key: str, module: Lycoris) -> dict[str, Tensor]:
    found = {f"{key}.{part}": value for part, value in module.tensors.items()}
    if module.alpha is not None:
        found[f"{key}.alpha"] = torch.tensor(module.alpha, dtype=torch.float32)
    return found


def _with_differences(
    found: Rendered,
    differences: Mapping[str, tuple[Tensor, Tensor | None]],
    prefix: str,
) -> Rendered:
    """Under the original's names, where weight and bias both have a place in ComfyUI."""
    parts = {name: (w if w.ndim else None, b) for name, (w, b) in differences.items()}
    for original, (weight, bias) in fused.fuse_differences(parts).items():
        name = original if prefix.endswith(".") else dialects.flattened(original)
        if weight is not None:
            found.tensors[f"{prefix}{name}.diff"] = weight
        if bias is not None:
            found.tensors[f"{prefix}{name}.diff_b"] = bias
    for name, (weight, bias) in parts.items():
        both = {"diff": weight, "diff_b": bias}
        found.modules[name] = Lycoris("full", {k: v for k, v in both.items() if v is not None})
    return found


def _reduced(
    modules: Mapping[str, Module], which: Callable[[Module], bool], base: Base | None, rank: int
) -> tuple[dict[str, Module], tuple[str, ...]]:
    """Those turned into LoRA of that rank, and what that lost."""
    found, lost, whole, count = dict(modules), 0.0, 0.0, 0
    for name, module in modules.items():
        if not which(module):
            continue
        weight, bias = delta(name, module, base)
        if weight.ndim != 2:
            raise ModelError(f"`{name}` changes no matrix", hint="--to comfyui keeps it")
        made = reduced(weight, rank)
        found[name] = replace(made, bias=bias)
        lost += float((weight - made.up @ made.down).square().sum())
        whole += float(weight.square().sum())
        count += 1
    if not count:
        return found, ()
    error = (lost / whole) ** 0.5 if whole else 0.0
    return found, (
        f"{count} modules became LoRA of rank {rank}: {error:.2%} of their difference "
        "(Frobenius norm) is lost",
    )


def reduced(weight: Tensor, rank: int) -> Lora:
    """The closest LoRA of that rank (Eckart and Young 1936), its two factors of equal size."""
    rank = min(rank, *weight.shape)
    tried = 2 * rank + 16
    if tried >= min(weight.shape):
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
    else:  # randomised, of fixed seed: a 2432 x 2432 matrix whole takes seconds, and there are 150
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(weight, q=tried, niter=6)
            v = v.T
    root = s[:rank].sqrt()
    return Lora((root[:, None] * v[:rank]).contiguous(), u[:, :rank] * root, float(rank))


def _with_magnitude(name: str, module: Lora, base: Base | None) -> Lora:
    """diffusers has DoRA on every module or on none: there, the length of each row as it is."""
    if module.magnitude is not None:
        return module
    if base is None:
        raise ModelError(
            f"`{name}` is plain LoRA beside DoRA, which diffusers has on every module or on none",
            hint="give the model it was trained on: --model FOLDER",
        )
    weight = base(name).float() + module.scale * (module.up.float() @ module.down.float())
    return replace(module, magnitude=weight.norm(dim=1))
