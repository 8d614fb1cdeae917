"""`sd3tune dataset --losses`: images with their losses, as a table, as JSON and as a sheet."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.cli import words
from sd3tune.cli.arguments import config_of, prepared
from sd3tune.escaping import echo, sentence
from sd3tune.report.progress import waiting
from sd3tune.urls import shown_url

if TYPE_CHECKING:
    from sd3tune.prepare import Prepared
    from sd3tune.train.image_losses import ImageLoss, ImageLosses

SHEET = "losses.png"  # in the folder of the run
MOST_LINES = 40  # images in the table; --json has all


@dataclass(frozen=True)
class TableOptions:
    """as_json: one document instead of a table. sheet: where the contact sheet goes; None: into the
    folder of the run, and with as_json nowhere. images: on the sheet, at most."""

    as_json: bool
    sheet: Path | None
    images: int


def run(arguments: tuple[str, ...], output: Path, asked: TableOptions) -> None:
    """Measures, draws the sheet, prints. Raises Sd3tuneError."""
    from sd3tune.config.run_files import load_run
    from sd3tune.data import run_folders
    from sd3tune.plan.result import DEFAULT_STEM

    config, datasets = load_run(*config_of(arguments))
    if asked.sheet is not None:
        run_folders.refuse_as_image(config, datasets, asked.sheet)
    with waiting("importing PyTorch"):
        from sd3tune.train.image_losses import image_losses, overrides

    file = f"{config.output_name or DEFAULT_STEM}.safetensors"
    result, settings = overrides(output, file, full=config.model_type == "full")
    path, own = config_of(arguments)
    ready = prepared((str(path), *own, *settings, *QUIET))
    losses = image_losses(ready, result)
    sheet = asked.sheet or (None if asked.as_json else output / SHEET)
    if sheet is not None:
        with waiting("drawing the contact sheet"):
            draw(losses, ready, sheet, asked.images)
    echo(document(losses)) if asked.as_json else words.show(lines(losses, sheet))


# Nothing is trained or drawn, and no checkpoint is continued.
QUIET = ("validation_disable=true", "resume_from_checkpoint=never", "evaluation_type=none")


def draw(losses: "ImageLosses", ready: "Prepared", path: Path, most: int) -> None:
    """The first images of the table with their losses. Raises DataError."""
    from sd3tune.data import sheet
    from sd3tune.errors import DataError

    first = losses.images[:most]
    remarks = {(i.sample.dataset, i.sample.name): remark(i) for i in first}
    masks = {d.id: ready.sources[d.conditioning_data]
             for d in ready.datasets.all if d.conditioning_data}  # fmt: skip
    try:
        sheet.draw(path, [i.sample for i in first], ready.sources, masks, remarks)
    except (OSError, ValueError) as e:  # ValueError: a suffix that Pillow cannot write
        raise DataError(
            f"the contact sheet `{path}` cannot be written: {e}", hint="name another with --sheet"
        ) from None


def remark(image: "ImageLoss") -> str:
    """The loss, and what is suspicious, in a few words."""
    what = "; ".join(s.partition(":")[0] for s in image.suspicions)
    return f"loss {image.loss:.4f}" + (f": {what}" if what else "")


def lines(losses: "ImageLosses", sheet: Path | None) -> list[words.Line]:
    """Loss, gain and name of each image, with the suspicions below it."""
    weights = losses.result or "the base model: the folder has no result"
    suspicious = sum(bool(i.suspicions) for i in losses.images)
    shown: list[words.Line] = [
        f"weights        {weights}",
        f"images         {len(losses.images)}, {suspicious} of them suspicious",
        "",
        f"  {'loss':>8}  {'caption':>8}  image  (caption: how much it lowers the loss)",
    ]
    for image in losses.images[:MOST_LINES]:
        name = f"{image.sample.dataset}: {sentence(shown_url(image.sample.name))}"
        shown.append(f"  {image.loss:>8.4f}  {image.gain:>8.4f}  {name}")
        shown += [f"  {'':>20}{suspicion}" for suspicion in image.suspicions]
    if len(losses.images) > MOST_LINES:
        shown.append(f"  and {len(losses.images) - MOST_LINES} more: --json lists them all")
    return shown if sheet is None else [*shown, "", f"contact sheet  {sheet}"]


def document(losses: "ImageLosses") -> str:
    """As JSON: docs/reference/json.md."""
    from sd3tune.train.evaluation import LEVELS

    images = [
        {
            "dataset": i.sample.dataset,
            "path": i.sample.path,
            "loss": i.loss,
            "loss_by_level": list(i.by_level),
            "caption": i.sample.captions[0],
            "caption_gain": i.gain,
            "suspicions": list(i.suspicions),
        }
        for i in losses.images
    ]
    result = None if losses.result is None else str(losses.result)
    content = {"result": result, "levels": list(LEVELS), "images": images}
    return words.document("dataset --losses", content)
