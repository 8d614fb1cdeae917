"""`sd3tune dataset`: how images and captions are understood."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, announced
from sd3tune.cli.dashes import settings_command
from sd3tune.escaping import echo, sentence
from sd3tune.report.progress import waiting
from sd3tune.tables.storages import STORAGES
from sd3tune.urls import shown_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sd3tune.config.datasets.image_dataset import ImageDataset
    from sd3tune.data.discover import RejectedFile, Sample
    from sd3tune.dataset_inspection import InspectedDataset, Inspection

MOST_REJECTED = 8  # files that are named, of each dataset
MOST_CAPTIONS = 3


@settings_command("dataset", "How images and captions are understood.")
@CONFIG_AND_OVERRIDES
@JSON
@click.option("--decode", is_flag=True, help="decode every image too: finds files broken inside")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="where the contact sheet goes (contact_sheet.png in output_dir; with --json: nowhere)",
)
@click.option(
    "--images",
    default=24,
    show_default=True,
    type=click.IntRange(1, 400),
    help="images on the contact sheet",
)
@click.option(
    "--losses",
    type=click.Path(path_type=Path),
    metavar="OUTPUT_DIR",
    help="the loss of every image with the result of this run, the suspicious and hardest first",
)
def command(
    arguments: tuple[str, ...],
    as_json: bool,
    decode: bool,
    sheet: Path | None,
    images: int,
    losses: Path | None,
) -> None:
    """Show how the datasets are understood: sizes, crops, captions, buckets, refused files.

    CONFIG is config/config.json unless given. Only headers are read, unless --decode is given; no
    model is loaded. The contact sheet shows each original with its crop, and masks in red.

    With --losses, the model is loaded with the result in OUTPUT_DIR (the base model where there is
    none), and the loss of every image is measured with fixed noise (docs/guides/evaluation.md).

    \b
      sd3tune dataset
      sd3tune dataset my/config.json --decode
      sd3tune dataset my/config.json --json | jq '.datasets[].buckets'
      sd3tune dataset my/config.json --losses output
    """
    if losses is not None:
        from sd3tune.cli import loss_lines

        return loss_lines.run(arguments, losses, loss_lines.TableOptions(as_json, sheet, images))
    path, overrides = announced(arguments)
    with waiting("reading the datasets"):
        from sd3tune import dataset_inspection
        from sd3tune.data import run_folders

        inspection = dataset_inspection.inspect(path, overrides, decode=decode)
    if sheet is None and not as_json:
        sheet = inspection.found.config.output_dir / "contact_sheet.png"
    elif sheet is not None:
        run_folders.refuse_as_image(inspection.found.config, inspection.found.datasets, sheet)
    if sheet is not None:
        with waiting("drawing the contact sheet"):
            dataset_inspection.draw_sheet(inspection, sheet, images)
    echo(document(inspection)) if as_json else words.show(lines(inspection, sheet))


def lines(inspection: "Inspection", sheet: Path | None) -> list[words.Line]:
    """Each dataset: images, buckets, captions, problems and refused files."""
    parts: list[list[words.Line]] = [[*words.notes(inspection.notes)]] if inspection.notes else []
    parts += [_dataset(seen) for seen in inspection.datasets]
    if sheet is not None and sheet.exists():
        parts.append([f"contact sheet  {sheet}"])
    return [line for i, part in enumerate(parts) for line in ([""] if i else []) + part]


def document(inspection: "Inspection") -> str:
    """`dataset --json`."""
    from sd3tune.dataset_inspection import document

    return words.document("dataset", document(inspection))


def _dataset(seen: "InspectedDataset") -> list[words.Line]:
    d, samples = seen.settings, seen.discovery.samples
    drawn = sum(s.repeats + 1 for s in samples)
    repeats = f", {drawn} with repeats" if drawn != len(samples) else ""
    crop = f"crop {d.crop_aspect}, {d.crop_style}" if d.crop else "own aspect"
    shown: list[words.Line] = [
        f"{d.id} ({d.dataset_type}): {len(samples)} images{repeats}, {STORAGES[d.type].place(d)}",
        f"  {crop}; resolution {d.resolution:g} {d.resolution_type}",
        f"  {'aspect':>8}  {'size':<11}{'images':>8}  {'enlarged':>8}",
    ]
    for b in seen.buckets:
        size = f"{b.size[0]}x{b.size[1]}"
        shown.append(f"  {b.aspect:>8g}  {size:<11}{b.images:>8}  {b.enlarged:>8}")
    shown += _captions(samples, d)
    shown += [f"  problem: {problem}" for problem in seen.problems]
    return shown + _rejected(seen.discovery.rejected)


def _captions(samples: "Sequence[Sample]", d: "ImageDataset") -> list[words.Line]:
    """How many, and the first few."""
    if not samples:
        return []
    several = sum(len(s.captions) > 1 for s in samples)
    more = f", {several} images have several" if several else ""
    unlike = len({c for s in samples for c in s.captions})
    shown: list[words.Line] = [
        f"  captions ({d.caption_strategy}): {unlike} different{more}, for example"
    ]
    for s in samples[:MOST_CAPTIONS]:
        shown.append(f"    {sentence(shown_url(s.name))}: {sentence(s.captions[0])[:90]}")
    return shown


def _rejected(rejected: "Sequence[RejectedFile]") -> list[words.Line]:
    """Reasons with their counts, and the first files."""
    if not rejected:
        return []
    shown: list[words.Line] = [f"  set aside: {len(rejected)}"]
    reasons = Counter(r.reason for r in rejected).most_common(MOST_REJECTED)
    shown += [f"    {count:>6} x {sentence(reason)}" for reason, count in reasons]
    first = rejected[:MOST_REJECTED]
    shown += [f"    {sentence(r.path)}: {sentence(r.reason)}" for r in first]
    if len(rejected) > MOST_REJECTED:
        shown.append(f"    and {len(rejected) - MOST_REJECTED} more: --json lists them all")
    return shown
