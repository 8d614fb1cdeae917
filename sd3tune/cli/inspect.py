"""`sd3tune inspect`: what a file or folder is."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.cli.words import counted
from sd3tune.escaping import echo
from sd3tune.report.progress import waiting

if TYPE_CHECKING:
    from sd3tune.formats.adapter_description import AdapterDescription
    from sd3tune.formats.identify import Identified

LONGEST = 100  # characters of a metadata value


@click.command("inspect", short_help="What a file is, and which programs read it.")
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@JSON
def command(path: Path, as_json: bool) -> None:
    """Show what a file is (adapter, model or checkpoint) and which programs read it.

    PATH is a .safetensors file, a folder with one (such as peft's save_pretrained writes), a
    checkpoint folder, a model folder or an output folder. Only
    headers are read, except for checkpoints, where every byte is compared with its checksum.

    \b
      sd3tune inspect somebodys_lora.safetensors
      sd3tune inspect output/checkpoint-500
      sd3tune inspect sd3.5_medium.safetensors --json | jq .facts
    """
    with waiting(f"reading {path}"):
        from sd3tune.formats.identify import identify

        found = identify(path)
    echo(document(found)) if as_json else words.show(lines(found))


def lines(found: "Identified") -> list[words.Line]:
    """Facts, and of an adapter also dialect, scale and readers."""
    shown: list[words.Line] = [f"{found.path}: {found.summary}"]
    for name, value in found.facts.items():
        shown += _fact(name, value)
    if found.adapter is not None:
        shown += _adapter(found.adapter)
    if found.metadata:
        shown.append("metadata")
        pairs = sorted(found.metadata.items())
        shown += [f"  {_short(name)}: {_short(value)}" for name, value in pairs]
    return shown


def document(found: "Identified") -> str:
    """`inspect --json`."""
    return words.document("inspect", asdict(found) | {"path": str(found.path)})


def _fact(name: str, value: Any) -> list[words.Line]:
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        rows = [
            f"    {part}: " + ", ".join(_amount(n, x) for n, x in facts.items())
            for part, facts in value.items()
        ]
        return [f"  {name}", *rows]
    if isinstance(value, dict):
        value = ", ".join(f"{k} {v:,}" for k, v in value.items())
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "none"
    label, text = name.removesuffix("_bytes"), _amount(name, value).split(" ", 1)[1]
    return [] if value is None else [f"  {label:<12} {text}"]


def _amount(name: str, value: Any) -> str:
    from sd3tune.plan.memory import gib

    if name == "size_bytes":
        return f"size {gib(value)}"
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"


def _adapter(seen: "AdapterDescription") -> list[words.Line]:
    source = {
        "tensors": "from .alpha",
        "metadata": _declared_by(seen.alpha_source),
        "nowhere": "nothing says alpha, so it is the rank",
    }[seen.alpha_from]
    shown: list[words.Line] = [
        f"  {'dialect':<12} {seen.dialect}",
        f"  {'model':<12} {seen.model} ({seen.because})",
        f"  {'algorithms':<12} {counted(seen.algorithms)}",
        f"  {'rank':<12} {counted(seen.ranks) or 'none'}",
        f"  {'alpha/rank':<12} {counted(seen.scales) or 'none'} ({source})",
        f"  {'targets':<12} {counted(seen.targets)}",
    ]
    if seen.text_encoder_keys:
        shown.append(f"  {'text encoders':<12} {seen.text_encoder_keys} keys")
    if seen.unknown_keys:
        first = seen.unknown_keys[0]
        shown.append(f"  {'unknown':<12} {len(seen.unknown_keys)} keys, as {first}")
    shown += [f"  {'assumed':<12} {sentence}" for sentence in seen.assumed]
    shown.append("read by")
    for program, verdict in seen.readers.items():
        reason = f": {verdict.reason}" if verdict.reason else ""
        shown.append(f"  {program:<12} {verdict.reads}{reason}")
    return shown


def _declared_by(source: str | None) -> str:
    from sd3tune.formats import scale

    if source == scale.BESIDE:
        return f"from {source} beside it"
    also = "" if source == scale.KEY else f", `{source}`"
    return f"from the metadata alone{also}"


def _short(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}… ({len(value):,} characters)"
