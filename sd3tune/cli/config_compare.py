"""`sd3tune config compare`: learning-rate equivalents of several configurations."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.imports.equivalents import Equivalent

COLUMN = 14


@click.command("compare", short_help="Learning-rate equivalents of several configurations.")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@JSON
def command(files: tuple[Path, ...], as_json: bool) -> None:
    """Print what makes runs comparable: learning rate x alpha / rank, images, noise levels.

    Each FILE is a configuration of sd3tune or of another trainer (see `sd3tune config import`). The
    last lines say which learning rate makes the first update of a file as large as that of the
    first.

    \b
      sd3tune config compare kohya.toml my-lora/config/config.json
    """
    from sd3tune.imports.equivalents import described, equivalents

    found = equivalents(files)
    if as_json:
        echo(words.document("config compare", {"runs": [described(e) for e in found]}))
    else:
        words.show(lines(found))


def lines(found: "list[Equivalent]") -> list[words.Line]:
    """A block for each file, then the equivalents."""
    shown: list[words.Line] = []
    for e in found:
        shown += [f"{e.name}: {e.trainer}", *_facts(e), ""]
    first = found[0]
    for other in found[1:]:
        shown.append(
            f"{other.name}: learning_rate={other.rate_as(first):.4g} moves as far as "
            f"{first.name} with {first.rate:.4g}"
        )
        shown += _caution(first, other)
    return shown if len(found) > 1 else shown[:-1]


def _facts(e: "Equivalent") -> list[words.Line]:
    length = f"{e.steps:,} steps" if e.steps is not None else f"{e.epochs} epochs"
    seen = f", {e.images_seen:,} images seen" if e.images_seen is not None else ""
    clip = f"at norm {e.clip:g}" if e.clip else "none"
    rows = [
        ("learning rate", f"{e.rate:.4g} ({e.optimizer})"),
        ("alpha / rank", f"{e.scale:.4g}"),
        ("effective", f"{e.effective_rate:.4g} = learning rate x alpha / rank"),
        ("images", f"{e.images} a step, {length}{seen}"),
        ("clipping", clip),
        ("noise levels", _levels(e)),
        ("loss", _weight(e)),
    ]
    return [f"  {name:<{COLUMN}}{text}" for name, text in rows]


def _levels(e: "Equivalent") -> str:
    if e.levels is None:
        return "follow from the image size, or have no closed form"
    texts = " ".join(f"{level:.2f}" for level in e.levels)
    return f"{texts} (10, 25, 50, 75, 90 % lie below)"


def _weight(e: "Equivalent") -> str:
    mean = "" if e.mean_weight is None else f", {e.mean_weight:.3g} on average"
    return f"loss_weighting={e.weighting}{mean}"


def _caution(first: "Equivalent", other: "Equivalent") -> list[words.Line]:
    """Where a learning rate alone does not make two runs alike."""
    differs = []
    if first.optimizer != other.optimizer:
        differs.append("optimizers")
    if first.images != other.images:
        differs.append("images a step")
    if (first.weighting, first.levels) != (other.weighting, other.levels):
        differs.append("noise levels or their weights")
    return [f"  they still differ in: {', '.join(differs)}"] if differs else []
