"""How ComfyUI applies an adapter to an SD3 checkpoint, as plain arithmetic on weights in the
original layout: an implementation of its observed rule, written apart from sd3tune's.

Which name changes which rows comes from diffusers' own conversion of a checkpoint whose rows are
numbered, so that neither sd3tune's table nor its swaps take part.
"""

from collections.abc import Mapping
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
    ids, owners, at = {}, [], 0
    for key, value in original.items():
        count = value.shape[0]
        row = torch.arange(at, at + count, dtype=torch.float64)
        ids[key] = row.view(-1, *[1] * (value.ndim - 1)).expand(value.shape).clone()
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
        held = {k: tensors[v].double() for k, v in mine.items()}
        added = _added(held, used, mine)
        if added is not None:
            changed[key][slice(None) if part is None else part] += added
        if "diff_b" in held and part is None:  # a slice has no bias there
            changed[key.replace(".weight", ".bias")] += held["diff_b"]
            used.add(mine["diff_b"])
    return {k: v.float() for k, v in changed.items()}, set(tensors) - used


def _added(held: Mapping[str, Tensor], used: set[str], keys: Mapping[str, str]) -> Tensor | None:
    def take(*parts: str) -> list[Tensor]:
        used.update(keys[p] for p in (*parts, "alpha") if p in keys)
        return [held[p] for p in parts]

    for down, up in (("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")):
        if up in held:
            d, u = take(down, up)
            return u @ d * (float(held["alpha"]) / d.shape[0] if "alpha" in held else 1.0)
    if "diff" in held:
        return take("diff")[0]
    if "hada_w1_a" in held:
        a, b, c, d = take("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return (a @ b) * (c @ d) * (float(held["alpha"]) / b.shape[0])
    if "lokr_w1" in held and "lokr_w2_a" in held:
        a, b, c = take("lokr_w1", "lokr_w2_a", "lokr_w2_b")
        return torch.kron(a, b @ c) * (float(held["alpha"]) / c.shape[0])
    return None
