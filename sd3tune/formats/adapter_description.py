"""What an adapter file is, from its header: algorithm, ranks, scales, targets, model, readers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sd3tune.filesystem.safetensors_header import Header
from sd3tune.formats import key_names, scale
from sd3tune.formats.key_names import FileKeys, ModuleKeys
from sd3tune.formats.readers import Verdict, verdicts
from sd3tune.sd3 import module_names
from sd3tune.sd3.variants import SD3_MEDIUM, SD35_LARGE
from sd3tune.tables import dialects

OUT_IS_WIDTH = ("net.2", "context_embedder", "embedder.linear_1", "embedder.linear_2")


@dataclass(frozen=True)
class AdapterDescription:
    """Counts are of modules. alpha_from: where the scale is declared. alpha_source: the key of the
    metadata or the file that declares it. because: what tells the model. readers: by program.
    assumed: sentences about what the file does not state by itself."""

    dialect: str
    algorithms: Mapping[str, int]
    ranks: Mapping[str, int]
    scales: Mapping[str, int]  # alpha / rank
    alpha_from: Literal["tensors", "metadata", "nowhere"]
    alpha_source: str | None
    targets: Mapping[str, int]  # diffusers' names, block numbers cut
    model: str
    because: str
    readers: Mapping[str, Verdict]
    text_encoder_keys: int
    unknown_keys: tuple[str, ...]
    assumed: tuple[str, ...]


def is_adapter(header: Header) -> bool:
    """Whether any key is one of an adapter, of SD3 or of another model."""
    grouped = key_names.group(header.tensors)
    return bool(grouped.modules) or any("lora" in k or "lycoris_" in k for k in header.tensors)


def describe(header: Header) -> AdapterDescription:
    """Raises ModelError when the metadata cannot be understood."""
    grouped = key_names.group(header.tensors)
    modules = list(grouped.modules.values())
    declared = scale.declared(header.path, header.metadata, needed=not grouped.states_alpha)
    scaled = [(m, _scale(header, m, declared)) for m in modules]
    source = "tensors" if any("alpha" in m.parts for m in modules) else "nowhere"
    model, because = _model(header, modules)
    return AdapterDescription(
        dialect=_dialect(modules),
        algorithms=_counts(_kind(m) for m in modules),
        ranks=_counts(str(r) for m in modules if (r := _rank(header, m)) is not None),
        scales=_counts(f"{s:g}" for _, s in scaled if s is not None),
        alpha_from="metadata" if source == "nowhere" and declared else source,  # type: ignore[arg-type]
        alpha_source=declared.source if source == "nowhere" and declared else None,
        targets=_counts(_target(m) for m in modules),
        model=model,
        because=because,
        readers=verdicts(header, grouped, scaled, declared),
        text_encoder_keys=len(grouped.text_encoders),
        unknown_keys=tuple(grouped.unknown),
        assumed=assumptions(grouped, declared),
    )


def assumptions(grouped: FileKeys, declared: scale.DeclaredScale | None) -> tuple[str, ...]:
    """What a reader takes for granted, a sentence each: that the names of wrappers carry nothing,
    and an alpha that is not where its dialect has it."""
    modules = grouped.modules.values()
    known = {keys.prefix for row in dialects.rows() for keys in row.every_keys}
    found = [
        f"names begin with `{prefix}`, which is left out: it says how the model was wrapped"
        for prefix in sorted({m.prefix for m in modules} - known)
    ]
    source = None if declared is None else declared.source
    if not grouped.states_alpha and (sentence := scale.assumed(source)) is not None:
        found.append(sentence)
    return tuple(found)


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _kind(m: ModuleKeys) -> str:
    return f"{m.algorithm} with DoRA" if m.dora else m.algorithm


def _dialect(modules: Iterable[ModuleKeys]) -> str:
    pairs = {(m.prefix, m.layout) for m in modules}
    words = (f"{prefix or 'no prefix'} + {layout} names" for prefix, layout in sorted(pairs))
    return ", ".join(words) or "none that sd3tune knows"


def _first(m: ModuleKeys) -> str:
    """A diffusers name of the module."""
    return m.module if m.layout == "diffusers" else module_names.diffusers_names(m.module)[0]


def _target(m: ModuleKeys) -> str:
    all_of_it = (m.module,) if m.layout == "diffusers" else module_names.diffusers_names(m.module)
    cut = [n.split(".", 2)[2] if n.startswith("transformer_blocks.") else n for n in all_of_it]
    return " + ".join(cut)


def _rank(header: Header, m: ModuleKeys) -> int | None:
    if (key := m.ranked_by) is None:
        return None
    return header.tensors[key].shape[0] if header.tensors[key].shape else None


def _scale(header: Header, m: ModuleKeys, declared: scale.DeclaredScale | None) -> float | None:
    rank = _rank(header, m)
    if not rank:
        return None
    if "alpha" in m.parts:
        value = header.number(m.parts["alpha"])
        return value / rank
    return (declared or scale.DeclaredScale()).of(m.module, rank)


def _size(header: Header, m: ModuleKeys) -> tuple[int, int] | None:
    """Rows and columns of the weight it changes; None where its tensors do not tell."""

    def shape(*parts: str) -> tuple[int, ...]:
        held = (m.parts[p] for p in parts if p in m.parts)
        return next((header.tensors[k].shape for k in held), (0, 0)) or (0, 0)

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


def _model(header: Header, modules: Iterable[ModuleKeys]) -> tuple[str, str]:
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
