"""What the keys of an adapter file say: dialect, module, and which of its tensors each one is.

A key is prefix + module + part. The prefix tells the program it was written for; the module is
named as in diffusers or as in the original model, with dots or flattened to underscores. Which
program reads which of these was seen by running them (docs/adr/0008-adapter-dialects.md). No torch
here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sd3tune.sd3 import dialects

Layout = Literal["diffusers", "original"]
# Prefixes with their style, longest first where one contains another.
DOTTED = ("base_model.model.", "transformer.", "diffusion_model.", "")
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
# (prefix, layout) that a program reads; every other pair loads nothing there, silently.
COMFYUI = {
    ("transformer.", "diffusers"),
    ("base_model.model.", "diffusers"),
    ("lora_transformer_", "diffusers"),
    ("lycoris_", "diffusers"),
    ("diffusion_model.", "original"),
    ("lora_unet_", "original"),
}
DIFFUSERS = {("transformer.", "diffusers")}
TEXT_ENCODERS = ("text_encoder", "lora_te", "text_encoders.", "clip_l.", "clip_g.", "t5xxl.")

PARTS = {  # ending of a key -> one name for what it holds
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",  # peft's own, when nobody cut the adapter's name
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_B.bias": "up_bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".alpha": "alpha",
}
LYCORIS = (  # lycoris-lora's names, kept as they are
    "dora_scale hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 lokr_w1 lokr_w1_a "
    "lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2 oft_blocks rescale a1.weight a2.weight "
    "b1.weight b2.weight bm.weight diff diff_b w_norm b_norm on_input"
).split()
PARTS |= {f".{name}": name for name in LYCORIS}
_PART = re.compile("(.*?)(" + "|".join(re.escape(p) for p in sorted(PARTS, key=len)[::-1]) + ")")
ALGORITHMS = {  # the part that tells -> what it is
    "hada_w1_a": "loha",
    "lokr_w1": "lokr",
    "lokr_w1_a": "lokr",
    "oft_blocks": "oft",
    "a1.weight": "glora",
    "diff": "full",
    "diff_b": "full",
    "w_norm": "norm",
    "on_input": "ia3",
    "mid": "tucker lora",
}


@dataclass(frozen=True)
class Named:
    """One module of a file: its parts by name, with the key of each."""

    module: str  # dotted, in `layout`
    prefix: str
    layout: Layout
    parts: Mapping[str, str]

    @property
    def algorithm(self) -> str:
        told = (a for part, a in ALGORITHMS.items() if part in self.parts)
        return next(told, "lora" if {"down", "up"} <= set(self.parts) else "incomplete")

    @property
    def dora(self) -> bool:
        return "magnitude" in self.parts or "dora_scale" in self.parts

    @property
    def ranked_by(self) -> str | None:
        """The key whose rows are the rank, or columns where its name ends in _a; None: no rank."""
        order = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight")
        return next((self.parts[p] for p in order if p in self.parts), None)


@dataclass
class Grouped:
    """All keys of a file."""

    modules: dict[str, Named] = field(default_factory=dict)  # by prefix + module
    text_encoders: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def group(keys: Iterable[str]) -> Grouped:
    """Every key finds its place: a module of SD3, the text encoders, or `unknown`."""
    found = Grouped()
    parts: dict[tuple[str, Layout, str], dict[str, str]] = {}
    for key in keys:
        match = _PART.fullmatch(key)
        where = None if match is None else located(match[1])
        if match is not None and where is not None:
            parts.setdefault(where, {})[PARTS[match[2]]] = key
        elif key.startswith(TEXT_ENCODERS):
            found.text_encoders.append(key)
        else:
            found.unknown.append(key)
    for (prefix, layout, module), names in parts.items():
        found.modules[prefix + module] = Named(module, prefix, layout, names)
    return found


def located(name: str) -> tuple[str, Layout, str] | None:
    """Prefix, layout and dotted module; None when it is no module of SD3."""
    for prefix in FLAT:
        if name.startswith(prefix):
            module = dialects.unflattened(name[len(prefix) :])
            return None if module is None else (prefix, _layout(module, prefix), module)
    for prefix in DOTTED:
        module = name[len(prefix) :]
        if name.startswith(prefix) and (dialects.place(module) or dialects.modules(module)):
            return prefix, _layout(module, prefix), module
    return None


def _layout(module: str, prefix: str) -> Layout:
    """`context_embedder` has one name in both: there the prefix says whose it is."""
    if dialects.place(module) and dialects.modules(module):
        return "original" if prefix in ("lora_unet_", "diffusion_model.") else "diffusers"
    return "diffusers" if dialects.place(module) else "original"
