"""What the keys of an adapter file say: dialect, module, and which of its tensors each one is.

A key is prefix + module + part. The prefix tells the program it was written for; the module is
named as in diffusers or as in the original model, with dots or flattened to underscores. The
dialects are rows of tables/dialects.py; the tensors of LyCORIS have one name in all of them. No
torch here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sd3tune.sd3 import module_names
from sd3tune.tables import dialects
from sd3tune.tables.dialects import Dialect, Layout

LONGEST = 1000  # characters of a key
TEXT_ENCODERS = ("text_encoder", "lora_te", "text_encoders.", "clip_l.", "clip_g.", "t5xxl.")
LYCORIS = (  # lycoris-lora's names, kept as they are
    "dora_scale hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 lokr_w1 lokr_w1_a "
    "lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2 oft_blocks rescale a1.weight a2.weight "
    "b1.weight b2.weight bm.weight diff diff_b w_norm b_norm on_input"
).split()
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
class ModuleKeys:
    """One module of a file: its parts by name, with the key of each."""

    module: str  # dotted, in `layout`
    prefix: str
    layout: Layout
    parts: Mapping[str, str]

    @property
    def algorithm(self) -> str:
        """`lora`, an algorithm of LyCORIS, or `incomplete`."""
        told = (a for part, a in ALGORITHMS.items() if part in self.parts)
        return next(told, "lora" if {"down", "up"} <= set(self.parts) else "incomplete")

    @property
    def dora(self) -> bool:
        """Whether it has the magnitude of DoRA, as peft or as LyCORIS names it."""
        return "magnitude" in self.parts or "dora_scale" in self.parts

    @property
    def ranked_by(self) -> str | None:
        """The key of a tensor whose rows are the rank; None: it has no rank."""
        order = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight")
        return next((self.parts[p] for p in order if p in self.parts), None)


@dataclass
class FileKeys:
    """All keys of a file."""

    modules: dict[str, ModuleKeys] = field(default_factory=dict)  # by prefix + module
    text_encoders: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def states_alpha(self) -> bool:
        """Whether every module that has a rank has a tensor with its alpha."""
        modules = self.modules.values()
        return all("alpha" in m.parts for m in modules if m.ranked_by is not None)


@dataclass(frozen=True)
class _Patterns:
    """The prefixes and endings of the dialects. parts: ending -> what the tensor holds."""

    parts: Mapping[str, str]
    ending: re.Pattern[str]
    flat: tuple[str, ...]
    dotted: tuple[str, ...]  # longest first, where one begins another; "" is the last
    only_original: frozenset[str]  # prefixes of original names alone
    peft: re.Pattern[str]  # an ending with the name of an adapter: .lora_A.NAME.weight


@lru_cache(maxsize=8)
def _patterns(rows: tuple[Dialect, ...]) -> _Patterns:
    parts: dict[str, str] = {ending: held for row in rows for ending, held in row.parts}
    parts |= {f".{name}": name for name in LYCORIS}
    longest_first = sorted(parts, key=len, reverse=True)
    keys = [k for row in rows for k in row.every_keys]
    diffusers = {k.prefix for k in keys if k.layout == "diffusers"}
    return _Patterns(
        parts,
        re.compile("(.*?)(" + "|".join(map(re.escape, longest_first)) + ")"),
        tuple(dict.fromkeys(k.prefix for k in keys if k.flat)),
        tuple(sorted({k.prefix for k in keys if not k.flat}, key=len, reverse=True)),
        frozenset(k.prefix for k in keys if k.prefix not in diffusers),
        re.compile(r"(.*\.(?:lora_[AB]|lora_magnitude_vector))\.[^.]+(\.(?:weight|bias))"),
    )


def group(keys: Iterable[str]) -> FileKeys:
    """Every key belongs to a module of SD3 or to a text encoder, or is `unknown`."""
    patterns = _patterns(dialects.rows())
    found = FileKeys()
    parts: dict[tuple[str, Layout, str], dict[str, str]] = {}
    for key in keys:
        where, part = _parsed(key, patterns)
        if where is not None and part not in parts.setdefault(where, {}):
            parts[where][part] = key
        elif where is None and key.startswith(TEXT_ENCODERS):
            found.text_encoders.append(key)
        else:  # or a part that another key holds already, as of a second adapter
            found.unknown.append(key)
    for (prefix, layout, module), names in parts.items():
        found.modules[prefix + module] = ModuleKeys(module, prefix, layout, names)
    return found


def whole_weight_of(key: str) -> str | None:
    """The module whose whole weight or bias a key is, as peft's modules_to_save leaves it; None for
    any other key."""
    name = re.fullmatch(r"(.*?)(?:\.modules_to_save\.\w+)?\.(?:weight|bias)", key)
    where = None if name is None else _located(name[1], _patterns(dialects.rows()))
    return None if where is None else where[2]


def without_wrappers(name: str) -> str:
    """A dotted name without what wraps the model or one of its modules."""
    return _unwrapped(f".{name}", ".").removeprefix(".")


def _parsed(key: str, patterns: _Patterns) -> tuple[tuple[str, Layout, str] | None, str]:
    """Where the module of a key is, None for a key that is not understood; and its part."""
    if len(key) > LONGEST:
        return None, ""
    named = patterns.peft.fullmatch(key)
    for written in (key, named[1] + named[2] if named is not None else key):
        match = patterns.ending.fullmatch(written)
        if match is not None and (where := _located(match[1], patterns)) is not None:
            return where, patterns.parts[match[2]]
    return None, ""


def _located(name: str, patterns: _Patterns) -> tuple[str, Layout, str] | None:
    """Prefix, layout and dotted module; None when it is not a module of SD3. What wraps the model
    or one of its modules is left out."""
    if (where := _placed(name, patterns)) is not None:
        return where
    if (flat := next((p for p in patterns.flat if name.startswith(p)), None)) is not None:
        bare = _unwrapped(f"_{name[len(flat) :]}", "_").removeprefix("_")
        where = _placed(flat + bare, patterns)
    else:
        where = _placed(without_wrappers(name), patterns)
    if where is None:
        return None
    prefix, layout, module = where
    last = module if flat is None else module_names.flattened(module)
    if name.endswith(last):
        return name[: -len(last)] or prefix, layout, module
    return f"{name.partition(last[: len(module.split('.')[0])])[0]}…", layout, module


def _unwrapped(name: str, dot: str) -> str:
    """A name without wrappers anywhere and without roots at its beginning. dot: what stands between
    and before its parts."""
    for wrapper in dialects.WRAPPERS:
        while (without := name.replace(f"{dot}{wrapper}{dot}", dot)) != name:
            name = without
    roots = [f"{dot}{root.replace('.', dot)}{dot}" for root in dialects.ROOTS]
    while (root := next((r for r in roots if name.startswith(r)), None)) is not None:
        if name.startswith(f"{dot}transformer{dot}blocks"):  # a flat name of the module itself
            break
        name = dot + name[len(root) :]
    return name


def _placed(name: str, patterns: _Patterns) -> tuple[str, Layout, str] | None:
    """A name without wrappers."""
    for prefix in patterns.flat:
        if name.startswith(prefix):
            module = module_names.unflattened(name[len(prefix) :])
            return None if module is None else (prefix, _layout(module, prefix, patterns), module)
    for prefix in patterns.dotted:
        module = name[len(prefix) :]
        if not name.startswith(prefix):
            continue
        if module_names.original_of(module) or module_names.diffusers_names(module):
            return prefix, _layout(module, prefix, patterns), module
    return None


def _layout(module: str, prefix: str, patterns: _Patterns) -> Layout:
    """`context_embedder` has one name in both layouts: there the prefix says which it is."""
    if module_names.original_of(module) and module_names.diffusers_names(module):
        return "original" if prefix in patterns.only_original else "diffusers"
    return "diffusers" if module_names.original_of(module) else "original"
