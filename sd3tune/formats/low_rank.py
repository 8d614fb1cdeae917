"""Modules that become LoRA of a given rank, where a dialect has no exact and small form."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats.adapter_weights import Base, LoraWeights, Modules, ModuleWeights
from sd3tune.formats.weight_deltas import delta


def converted(
    modules: Modules,
    which: Callable[[str, ModuleWeights], bool],
    base: Base | None,
    rank: int,
) -> tuple[dict[str, ModuleWeights], tuple[str, ...]]:
    """The modules for which `which` is true become LoRA of `rank`; and a note on what that lost."""
    found, lost, whole, count = dict(modules), 0.0, 0.0, 0
    for name, module in modules.items():
        if not which(name, module):
            continue
        weight, bias = delta(name, module, base)
        if weight.ndim != 2:
            raise ModelError(f"`{name}` does not change a matrix", hint="--to comfyui keeps it")
        made = closest_lora(weight, rank)
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


def closest_lora(weight: Tensor, rank: int) -> LoraWeights:
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
    return LoraWeights((root[:, None] * v[:rank]).contiguous(), u[:, :rank] * root, float(rank))


def with_magnitude(name: str, module: LoraWeights, base: Base | None) -> LoraWeights:
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
