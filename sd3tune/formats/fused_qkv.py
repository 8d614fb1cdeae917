"""Converts an adapter between the two layouts of SD3: query, key and value as three matrices
(diffusers), or fused into one (the original).

Both directions are exact. Fusing stacks the `down` matrices and puts the `up` matrices on a block
diagonal. Splitting takes the rows of `up`, without the ranks that are zero in them. Where the
original has scale and shift of an AdaLN projection in the other order, the halves of the rows are
swapped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sd3tune.errors import ModelError
from sd3tune.formats import number_types
from sd3tune.formats.adapter_weights import LoraWeights, LycorisWeights, ModuleWeights
from sd3tune.formats.weight_deltas import delta
from sd3tune.sd3 import module_names
from sd3tune.sd3.module_names import QKV


def split(original: str, module: ModuleWeights) -> dict[str, ModuleWeights]:
    """A module of the original layout as diffusers' modules. Raises ModelError for what cannot be
    split without the base model."""
    names = module_names.diffusers_names(original)
    if isinstance(module, LoraWeights):
        if len(names) == 1:
            return {names[0]: _turned(names[0], module)}
        ups = module.up.chunk(QKV)
        kept = {i: _ranks_of(ups, i) for i in range(QKV)}
        if module.magnitude is not None:  # rows change their length even where no rank is theirs
            for keep in kept.values():
                keep[0] |= not keep.any()
        return {
            name: replace(
                module,
                down=module.down[keep],
                up=ups[i][:, keep],
                alpha=module.scale * int(keep.sum()),
                magnitude=None if module.magnitude is None else module.magnitude.chunk(QKV)[i],
                bias=None if module.bias is None else module.bias.chunk(QKV)[i],
            )
            for i, name in enumerate(names)
            if (keep := kept[i]).any()
        }
    if len(names) == 1 and not _is_turned(names[0], module):
        return {names[0]: module}
    return _split_difference(original, names, module)


def _ranks_of(ups: Sequence[Tensor], part: int) -> Tensor:
    """(rank,) of bool: the ranks that the query, key or value uses. A rank that is zero in its rows
    and not in the others' is left to the others."""
    used = torch.stack([(up != 0).any(dim=0) for up in ups])
    return used[part] | ~used.any(dim=0)


def _split_difference(
    original: str, names: Sequence[str], module: LycorisWeights
) -> dict[str, ModuleWeights]:
    try:
        weight, bias = delta(original, module, None)
    except ModelError as e:
        raise ModelError(
            f"`{original}`: {module.algorithm} of a fused or swapped matrix cannot be split",
            hint="ComfyUI reads the file as it is; diffusers' layout has no such module",
        ) from e
    found: dict[str, ModuleWeights] = {}
    used: set[str] = set()
    for i, name in enumerate(names):
        whole = {"diff": weight if weight.ndim else None, "diff_b": bias}
        rows = {k: v.chunk(len(names))[i] for k, v in whole.items() if v is not None}
        if _is_turned(name, module):
            rows = {k: swapped(v) for k, v in rows.items()}
        found[name] = LycorisWeights("full", {k: v.contiguous() for k, v in rows.items()})
        used |= {name} if any(v.any() for v in rows.values()) else set()
    # A fused difference is zero for a query, key or value that has a LoRA of its own beside it.
    return {name: m for name, m in found.items() if name in used} or found


def fuse(modules: Mapping[str, LoraWeights]) -> dict[str, LoraWeights]:
    """diffusers' plain LoRA modules by the original's names. Scales that differ within one fused
    matrix are folded, alpha = joint rank; equal ones stay as alpha. Number types that differ become
    one that holds them all."""
    groups: dict[str, dict[int | None, tuple[str, LoraWeights]]] = {}
    for name, module in modules.items():
        place = module_names.original_of(name)
        assert place is not None, name
        groups.setdefault(place.original, {})[place.part] = (name, module)
    found = {}
    for original, parts in groups.items():
        if None in parts:
            found[original] = _turned(*parts[None])
        else:
            found[original] = _joined({i or 0: parts[i][1] for i in sorted(parts, key=str)})
    return found


def _joined(parts: Mapping[int, LoraWeights]) -> LoraWeights:
    scales = {m.scale for m in parts.values()}
    if len(scales) > 1:
        parts = {i: m.folded() for i, m in parts.items()}
    dtype = number_types.widest(t.dtype for m in parts.values() for t in (m.down, m.up))
    parts = {i: m.to(dtype) for i, m in parts.items()}
    rank, rows = sum(m.rank for m in parts.values()), next(iter(parts.values())).up.shape[0]
    first = next(iter(parts.values()))
    up = first.up.new_zeros(QKV * rows, rank)
    bias = first.up.new_zeros(QKV * rows)
    at = 0
    for i, m in parts.items():
        up[i * rows : (i + 1) * rows, at : at + m.rank] = m.up
        if m.bias is not None:
            bias[i * rows : (i + 1) * rows] = m.bias
        at += m.rank
    alpha = float(rank) * (scales.pop() if len(scales) == 1 else 1.0)
    down = torch.cat([m.down for m in parts.values()])
    has_bias = any(m.bias is not None for m in parts.values())
    return LoraWeights(down, up, alpha, bias=bias if has_bias else None)


def fuse_differences(
    modules: Mapping[str, tuple[Tensor | None, Tensor | None]],
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Differences of weight (out, in) and bias (out,) by original names. A query, key or value
    without a difference is zero in the fused matrix."""
    groups: dict[str, dict[int, tuple[Tensor | None, Tensor | None]]] = {}
    for name, (weight, bias) in modules.items():
        place = module_names.original_of(name)
        assert place is not None, name
        groups.setdefault(place.original, {})[place.part or 0] = (weight, bias)
    found = {}
    for original, parts in groups.items():
        names = module_names.diffusers_names(original)
        columns = [[parts[i][k] if i in parts else None for i in range(len(names))] for k in (0, 1)]
        weight, bias = (_stacked(column) for column in columns)
        if _turns(names[0], weight, bias):
            weight, bias = (None if t is None else swapped(t) for t in (weight, bias))
        found[original] = (weight, bias)
    return found


def _is_turned(name: str, module: LycorisWeights) -> bool:
    """The same of a module whose difference may be unknown."""
    if module.algorithm == "full":
        return _turns(name, module.tensors.get("diff"), module.tensors.get("diff_b"))
    return module_names.swaps(name, *_size(module))


def _turns(name: str, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether a difference has its halves in the other order in the other layout. Raises ModelError
    for a bias whose weight would tell, and is not there."""
    if weight is not None:
        return weight.ndim == 2 and module_names.swaps(name, *weight.shape)
    if bias is not None and name.endswith(".norm1_context.linear"):
        raise ModelError(
            f"`{name}` changes its bias alone, whose order in the original layout is unknown",
            hint="write the file with the difference of its weight too, even if it is zero",
        )
    return module_names.swaps(name, 0, 1)


def _stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    like = next((t for t in column if t is not None), None)
    if like is None:
        return None
    return torch.cat([torch.zeros_like(like) if t is None else t for t in column])


def _turned(name: str, module: LoraWeights) -> LoraWeights:
    """The LoRA in the other layout of an AdaLN projection; applying it twice changes nothing."""
    if not module_names.swaps(name, module.up.shape[0], module.down.shape[1]):
        return module
    rows = {k: v for k in ("up", "magnitude", "bias") if (v := getattr(module, k)) is not None}
    changed: dict[str, Any] = {k: swapped(v) for k, v in rows.items()}
    return replace(module, **changed)


def swapped(rows: Tensor) -> Tensor:
    """The rows with their two halves in the other order."""
    return torch.cat(rows.chunk(2)[::-1])


def _size(module: LycorisWeights) -> tuple[int, int]:
    """(out, in) of the weight that the module changes; (0, 0) where its tensors do not tell."""
    t = module.tensors
    if "diff" in t:
        return int(t["diff"].shape[0]), int(t["diff"].shape[-1])
    if "hada_w1_a" in t:
        return int(t["hada_w1_a"].shape[0]), int(t["hada_w1_b"].shape[1])
    if "lora_up.weight" in t:
        return int(t["lora_up.weight"].shape[0]), int(t["lora_down.weight"].shape[1])
    if module.algorithm == "lokr":
        sides = [t.get(f"lokr_w{i}", t.get(f"lokr_w{i}_a")) for i in (1, 2)]
        across = [t.get(f"lokr_w{i}", t.get(f"lokr_w{i}_b")) for i in (1, 2)]
        a, b = (1, 1)
        for s, c in zip(sides, across, strict=True):
            if s is not None and c is not None:
                a, b = a * int(s.shape[0]), b * int(c.shape[1])
        return a, b
    return 0, 0
