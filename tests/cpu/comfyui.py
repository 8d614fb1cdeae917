"""How ComfyUI applies an adapter to an SD3 checkpoint, as plain arithmetic on weights in the
original layout: an implementation of its observed rule, written apart from sd3tune's.

Which name changes which rows comes from diffusers' own conversion of a checkpoint whose rows are
numbered, so that neither sd3tune's table nor its swaps take part.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_sd3_transformer_checkpoint_to_diffusers as convert,
)
from safetensors.torch import load_file
from torch import Tensor

Weights = dict[str, Tensor]
Rows = Mapping[str, tuple[str, Tensor]]  # diffusers' module -> tensor of the original, its rows


def numbered(original: Mapping[str, Tensor]) -> Rows:
    """Which rows of which original weight each module of diffusers is."""
    return _numbered(tuple((key, tuple(value.shape)) for key, value in original.items()))


@lru_cache(maxsize=4)
def _numbered(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Rows:
    ids, owners, at = {}, [], 0
    for key, shape in shapes:
        count = shape[0]
        row = torch.arange(at, at + count, dtype=torch.float64)
        ids[key] = row.view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
        owners += [(key, i) for i in range(count)]
        at += count
    found = {}
    for key, value in convert(ids).items():
        if key.endswith(".weight") and value.ndim == 2:
            rows = [owners[int(i)] for i in value[:, 0]]
            found[key[: -len(".weight")]] = (rows[0][0], torch.tensor([i for _, i in rows]))
    return found


def applied(file: Path, original: Mapping[str, Tensor]) -> tuple[Weights, set[str]]:
    """The original's weights with the adapter in them, and the keys it does not load."""
    tensors, rows = load_file(file), numbered(original)
    changed = {key: value.clone().double() for key, value in original.items()}
    names: dict[str, tuple[str, Tensor | None]] = {}
    for module, place in rows.items():
        flat = module.replace(".", "_")
        for name in (f"transformer.{module}", f"base_model.model.{module}",
                     f"lora_transformer_{flat}", f"lycoris_{flat}"):  # fmt: skip
            names[name] = place
    for key in original:
        if key.endswith(".weight"):
            module = key[: -len(".weight")]
            names[f"diffusion_model.{module}"] = (key, None)
            names["lora_unet_" + module.replace(".", "_")] = (key, None)
    used: set[str] = set()
    for name, (key, part) in names.items():
        mine = {k[len(name) + 1 :]: k for k in tensors if k.startswith(f"{name}.")}
        if not mine:
            continue
        held = {k: tensors[v].double() for k, v in mine.items()}
        order = None if part is None else part.argsort().argsort()  # the rows it swaps
        within = slice(None) if part is None else part.sort().values
        before = changed[key][within]
        changed[key][within] = _changed(before, held, used, mine, order)
        whole = part is None or torch.equal(part, torch.arange(len(original[key])))
        if "diff_b" in held and whole:  # a slice has no bias there, nor have rows in another order
            changed[key.replace(".weight", ".bias")] += held["diff_b"]
            used.add(mine["diff_b"])
    return {k: v.float() for k, v in changed.items()}, set(tensors) - used


def _changed(
    weight: Tensor,
    held: Mapping[str, Tensor],
    used: set[str],
    keys: Mapping[str, str],
    order: Tensor | None,
) -> Tensor:
    """A slice of an original weight with a module in it. order: where the rows of a difference go;
    what multiplies the weight takes its rows as they are."""
    used.update(keys[p] for p in ("alpha",) if p in keys)
    added = _added(weight, held, used, keys)
    if added is None:
        return weight
    if order is not None:
        added = torch.empty_like(added).index_copy_(0, order, added)
    if "dora_scale" in held:
        used.add(keys["dora_scale"])
        magnitude, whole = held["dora_scale"], weight + added
        by_rows = magnitude.shape[0] == weight.shape[0]
        lengths = weight.norm(dim=1, keepdim=True) if by_rows else whole.norm(dim=0, keepdim=True)
        scaled: Tensor = magnitude * whole / lengths
        return scaled
    return weight + added


def _added(
    weight: Tensor, held: Mapping[str, Tensor], used: set[str], keys: Mapping[str, str]
) -> Tensor | None:
    def take(*parts: str) -> list[Tensor]:
        used.update(keys[p] for p in parts)
        return [held[p] for p in parts]

    def scale(rank: int) -> float:
        return float(held["alpha"]) / rank if "alpha" in held else 1.0

    for down, up in (("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")):
        if up in held:
            d, u = take(down, up)
            return u @ d * scale(d.shape[0])
    if "diff" in held:
        return take("diff")[0]
    if "hada_w1_a" in held:
        a, b, c, d = take("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return (a @ b) * (c @ d) * scale(b.shape[0])
    if "a1.weight" in held:
        a, b, c, d = take("a1.weight", "a2.weight", "b1.weight", "b2.weight")
        return (weight @ a @ b + c @ d) * scale(b.shape[0])
    if "oft_blocks" in held:
        take("oft_blocks", *({"rescale"} & held.keys()))
        return _rotated(weight, held) - weight
    if "lokr_w1" in held or "lokr_w1_a" in held:
        factors, times = [], 1.0
        for i in (1, 2):
            if f"lokr_w{i}" in held:
                factors += take(f"lokr_w{i}")
            else:
                a, b = take(f"lokr_w{i}_a", f"lokr_w{i}_b")
                factors, times = [*factors, a @ b], scale(b.shape[0])
        return torch.kron(*factors) * times
    return None


def _rotated(weight: Tensor, held: Mapping[str, Tensor]) -> Tensor:
    """Its constraint is alpha itself; BOFT fails without one, and leaves the weight as it is; only
    BOFT has scales of rows."""
    blocks = held["oft_blocks"]
    if blocks.ndim == 4 and "alpha" not in held:
        return weight
    alpha = float(held.get("alpha", 0.0))
    q = blocks - blocks.mT
    q = q * min(1.0, alpha / float(q.norm())) if alpha > 0 else q
    eye = torch.eye(q.shape[-1], dtype=q.dtype)
    r = (eye + q) @ torch.linalg.inv(eye - q)
    if blocks.ndim == 3:  # rows of each block from the left, by the transpose
        rotation: Tensor = torch.block_diag(*r.mT)
        return rotation @ weight
    for i, factor in enumerate(r):
        apart = 2**i * (r.shape[-1] // 2)
        rows = torch.arange(weight.shape[0]).view(-1, 2, apart).transpose(1, 2).flatten()
        turned = torch.empty_like(weight)
        turned[rows] = torch.block_diag(*factor) @ weight[rows]
        weight = turned
    return weight * held.get("rescale", torch.ones(1))
