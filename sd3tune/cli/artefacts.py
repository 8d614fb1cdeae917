"""`sd3tune inspect` and `sd3tune export` in words and as JSON: docs/reference/json.md."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sd3tune import __version__
from sd3tune.escaping import page
from sd3tune.plan.memory import gib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sd3tune.formats.convert import Exported
    from sd3tune.formats.identify import Look
    from sd3tune.formats.seen import Seen

LONGEST = 100  # characters of a metadata value


def inspected(look: "Look") -> str:
    lines = [f"{look.path}: {look.summary}"]
    for name, value in look.facts.items():
        lines += _fact(name, value)
    if look.adapter is not None:
        lines += _adapter(look.adapter)
    if look.metadata:
        lines.append("metadata")
        pairs = sorted(look.metadata.items())
        lines += [f"  {_short(name)}: {_short(value)}" for name, value in pairs]
    return page(lines)


def inspected_json(look: "Look") -> str:
    head = {"schema": 1, "tool": "sd3tune inspect", "version": __version__}
    return json.dumps(head | asdict(look) | {"path": str(look.path)}, indent=1)


def exported(done: "Exported") -> str:
    lines = [f"note: {words}" for words in done.notes]
    return page([*lines, f"wrote  {done.path}"])


def _fact(name: str, value: Any) -> list[str]:
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        rows = [f"    {k}: " + ", ".join(_amount(n, x) for n, x in v.items())
                for k, v in value.items()]  # fmt: skip
        return [f"  {name}", *rows]
    if isinstance(value, dict):
        value = ", ".join(f"{k} {v:,}" for k, v in value.items())
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "none"
    label, text = name.removesuffix("_bytes"), _amount(name, value).split(" ", 1)[1]
    return [] if value is None else [f"  {label:<12} {text}"]


def _amount(name: str, value: Any) -> str:
    if name == "size_bytes":
        return f"size {gib(value)}"
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"


def _adapter(seen: "Seen") -> list[str]:
    source = {"tensors": "from .alpha", "metadata": "from the metadata alone",
              "nowhere": "nothing says alpha, so it is the rank"}[seen.alpha_from]  # fmt: skip
    lines = [
        f"  {'dialect':<12} {seen.dialect}",
        f"  {'model':<12} {seen.model} ({seen.because})",
        f"  {'algorithms':<12} {_counted(seen.algorithms)}",
        f"  {'rank':<12} {_counted(seen.ranks) or 'none'}",
        f"  {'alpha/rank':<12} {_counted(seen.scales) or 'none'} ({source})",
        f"  {'targets':<12} {_counted(seen.targets)}",
    ]
    if seen.text_encoder_keys:
        lines.append(f"  {'text encoders':<12} {seen.text_encoder_keys} keys")
    if seen.unknown_keys:
        lines.append(f"  {'unknown':<12} {len(seen.unknown_keys)} keys, as {seen.unknown_keys[0]}")
    lines.append("read by")
    for program, verdict in seen.readers.items():
        reason = f": {verdict.reason}" if verdict.reason else ""
        lines.append(f"  {program:<12} {verdict.reads}{reason}")
    return lines


def _counted(counts: "Mapping[str, int]") -> str:
    """`16` where all agree, `8 (12), 16 (4)` where not."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _short(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}… ({len(value):,} characters)"
