"""What an adapter file is, from its header: kind, ranks, scales, targets, model, who reads it.

Who reads what was seen by running the programs on files of every kind: docs/guides/adapters.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import alpha, keys
from sd3tune.formats.keys import Named
from sd3tune.sd3 import dialects
from sd3tune.sd3.variants import SD3_MEDIUM, SD35_LARGE

Reads = Literal["yes", "wrong", "no", "unknown"]
EXACT = ("lora", "loha", "lokr", "oft", "glora", "full")  # of which it was seen with ComfyUI
OUT_IS_WIDTH = ("net.2", "context_embedder", "embedder.linear_1", "embedder.linear_2")


@dataclass(frozen=True)
class Verdict:
    reads: Reads
    reason: str


@dataclass(frozen=True)
class Seen:
    """Counts are of modules."""

    dialect: str
    algorithms: Mapping[str, int]
    ranks: Mapping[str, int]
    scales: Mapping[str, int]  # alpha / rank
    alpha_from: Literal["tensors", "metadata", "nowhere"]
    targets: Mapping[str, int]  # diffusers' names, block numbers cut
    model: str
    because: str
    readers: Mapping[str, Verdict]
    text_encoder_keys: int
    unknown_keys: tuple[str, ...]


def is_adapter(header: Header) -> bool:
    grouped = keys.group(header.tensors)
    return bool(grouped.modules) or any("lora" in k or "lycoris_" in k for k in header.tensors)


def see(header: Header) -> Seen:
    """Raises ModelError when the metadata cannot be understood."""
    grouped = keys.group(header.tensors)
    modules = list(grouped.modules.values())
    said = alpha.said(header.path, header.metadata)
    scaled = [(m, _scale(header, m, said)) for m in modules]
    source = "tensors" if any("alpha" in m.parts for m in modules) else "nowhere"
    model, because = _model(header, modules)
    return Seen(
        dialect=_dialect(modules),
        algorithms=_counts(_kind(m) for m in modules),
        ranks=_counts(str(r) for m in modules if (r := _rank(header, m)) is not None),
        scales=_counts(f"{s:g}" for _, s in scaled if s is not None),
        alpha_from="metadata" if source == "nowhere" and said else source,  # type: ignore[arg-type]
        targets=_counts(_target(m) for m in modules),
        model=model,
        because=because,
        readers=_readers(header, grouped, scaled),
        text_encoder_keys=len(grouped.text_encoders),
        unknown_keys=tuple(grouped.unknown),
    )


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _kind(m: Named) -> str:
    return f"{m.algorithm} with DoRA" if m.dora else m.algorithm


def _dialect(modules: Iterable[Named]) -> str:
    pairs = {(m.prefix, m.layout) for m in modules}
    words = (f"{prefix or 'no prefix'} + {layout} names" for prefix, layout in sorted(pairs))
    return ", ".join(words) or "none that sd3tune knows"


def _first(m: Named) -> str:
    """A diffusers name of the module."""
    return m.module if m.layout == "diffusers" else dialects.modules(m.module)[0]


def _target(m: Named) -> str:
    all_of_it = (m.module,) if m.layout == "diffusers" else dialects.modules(m.module)
    cut = [n.split(".", 2)[2] if n.startswith("transformer_blocks.") else n for n in all_of_it]
    return " + ".join(cut)


def _rank(header: Header, m: Named) -> int | None:
    if (key := m.ranked_by) is None:
        return None
    return header.tensors[key].shape[0] if header.tensors[key].shape else None


def _scale(header: Header, m: Named, said: alpha.Said | None) -> float | None:
    rank = _rank(header, m)
    if not rank:
        return None
    if "alpha" in m.parts:
        value = header.number(m.parts["alpha"])
        return value / rank
    return (said or alpha.Said()).scale(m.module, rank)


def _size(header: Header, m: Named) -> tuple[int, int] | None:
    """Rows and columns of the weight it changes; None where its tensors do not tell."""

    def shape(*parts: str) -> tuple[int, ...]:
        keys = (m.parts[p] for p in parts if p in m.parts)
        return next((header.tensors[k].shape for k in keys), (0, 0)) or (0, 0)

    match m.algorithm:
        case "lora":
            found = shape("up")[0], shape("down")[-1]
        case "loha":
            found = shape("hada_w1_a")[0], shape("hada_w1_b")[-1]
        case "lokr":
            rows = shape("lokr_w1", "lokr_w1_a")[0] * shape("lokr_w2", "lokr_w2_a")[0]
            found = rows, shape("lokr_w1", "lokr_w1_b")[-1] * shape("lokr_w2", "lokr_w2_b")[-1]
        case "glora":
            found = shape("b1.weight")[0], shape("a2.weight")[-1]
        case "full":
            found = shape("diff")[0], shape("diff")[-1]
        case _:
            return None
    return found if all(found) else None


def _model(header: Header, modules: Iterable[Named]) -> tuple[str, str]:
    """The released model it fits, and what says so."""
    sizes = {_first(m): s for m in modules if (s := _size(header, m)) is not None}
    widths = {s[0] if n.endswith(OUT_IS_WIDTH) else s[1] for n, s in sizes.items()
              if n.startswith("transformer_blocks.") or n == "context_embedder"}  # fmt: skip
    stamped = header.metadata.get("base_model") or header.metadata.get("modelspec.architecture")
    if len(widths) != 1:
        return stamped or "unknown", "its metadata" if stamped else "no shape tells"
    width = widths.pop()
    attn2 = any(".attn2." in _first(m) for m in modules)
    nine = any(n.endswith(".norm1.linear") and s[0] == 9 * s[1] for n, s in sizes.items())
    if width == SD35_LARGE.hidden:
        return "sd3.5-large", f"width {width}"
    tiny = "" if width == SD3_MEDIUM.hidden else " (tiny)"
    if attn2 or nine:
        return f"sd3.5-medium{tiny}", f"width {width}, second attention"
    if stamped:
        return stamped, f"its metadata; width {width}"
    which = "sd3-medium" if not tiny else f"SD3 of width {width}"
    return which, f"width {width}, no second attention adapted (sd3.5-medium has the same width)"


def _readers(
    header: Header, grouped: keys.Grouped, scaled: list[tuple[Named, float | None]]
) -> dict[str, Verdict]:
    return {
        "sd3tune": _sd3tune(header, grouped, scaled),
        "diffusers": _diffusers(header, grouped),
        "ComfyUI": _comfyui(grouped, scaled),
    }


def _sd3tune(
    header: Header, grouped: keys.Grouped, scaled: list[tuple[Named, float | None]]
) -> Verdict:
    if grouped.unknown:
        return Verdict("no", f"`{grouped.unknown[0]}` is no key it knows")
    if grouped.text_encoders:
        return Verdict("no", "text encoders are adapted too")
    modules = grouped.modules.values()
    if any(alpha.is_untold(m.prefix, "alpha" in m.parts, header) for m in modules):
        return Verdict("no", "it says nowhere what its alpha is")
    if none := next((m.module for m, s in scaled if s == 0), None):
        return Verdict("no", f"`{none}` has alpha 0, which some programs read as alpha = rank")
    keys = (k for m in modules for k in m.parts.values())
    if empty := next((k for k in keys if not header.tensors[k].elements), None):
        return Verdict("no", f"`{empty}` is empty")
    odd = [m for m in modules if m.algorithm == "incomplete"]
    return Verdict("no", f"`{odd[0].module}` is incomplete") if odd else Verdict("yes", "")


def _diffusers(header: Header, grouped: keys.Grouped) -> Verdict:
    if odd := next((k for k in header.tensors if "lora" not in k), None):
        return Verdict("no", f'it refuses files with a key that lacks "lora", as `{odd}`')
    pairs = {(m.prefix, m.layout) for m in grouped.modules.values()}
    if other := next(iter(sorted(pairs - keys.DIFFUSERS)), None):
        words = f"`{other[0] or '(no prefix)'}` with {other[1]} names"
        return Verdict("no", f"it loads nothing of {words}, and only warns")
    if any(m.algorithm != "lora" for m in grouped.modules.values()):
        return Verdict("no", "it takes LoRA of two matrices only")
    return Verdict("yes" if pairs else "no", "" if pairs else "it holds no module of SD3")


def _comfyui(grouped: keys.Grouped, scaled: list[tuple[Named, float | None]]) -> Verdict:
    modules = list(grouped.modules.values())
    pairs = {(m.prefix, m.layout) for m in modules}
    if other := next(iter(sorted(pairs - keys.COMFYUI)), None):
        words = f"`{other[0] or '(no prefix)'}` with {other[1]} names"
        return Verdict("no", f"it loads nothing of {words}: log lines only")
    if any("magnitude" in m.parts for m in modules):
        return Verdict("wrong", "it does not know lora_magnitude_vector: plain LoRA is applied")
    if any("dora_scale" in m.parts for m in modules):
        return Verdict("wrong", "it divides DoRA by |W|, not by |W + dW| as the paper does")
    if any(s is not None and s != 1 and "alpha" not in m.parts for m, s in scaled):
        return Verdict("wrong", "alpha is in the metadata alone, which it ignores: scale 1")
    split = [m for m in modules if (place := dialects.place(m.module)) and place.part is not None]
    if any({"diff_b", "up_bias"} & m.parts.keys() for m in split):
        return Verdict("wrong", "it loses what is added to the bias of a query, key or value")
    if any("up_bias" in m.parts for m in modules):
        return Verdict("wrong", "it does not know the bias of lora_B")
    if odd := next((m.algorithm for m in modules if m.algorithm not in EXACT), None):
        return Verdict("unknown", f"{odd} was not tried")
    return Verdict("yes" if modules else "no", "" if modules else "it holds no module of SD3")
