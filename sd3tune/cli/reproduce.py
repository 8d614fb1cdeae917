"""`sd3tune reproduce`: a picture drawn again from what it says about itself, and compared."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.cli.drawing_options import DRY_RUN, MODEL, ON_CPU, plan_document, plan_lines
from sd3tune.escaping import echo
from sd3tune.report.progress import waiting, warn

if TYPE_CHECKING:
    from sd3tune.drawing.recorded_picture import RecordedPicture
    from sd3tune.plan.drawing import DrawingPlan
    from sd3tune.sample.reproduction import Compared

FOLDER = Path("reproduced")


@click.command("reproduce", short_help="Draw a picture again from its own metadata.")
@click.argument("path", type=click.Path(path_type=Path), metavar="PICTURE|CARD")
@click.option("--picture", "number", type=int, metavar="N", help="which picture of a card  [1]")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FILE",
    help="its adapter, where it is not found; may be repeated",
)
@MODEL
@ON_CPU
@click.option("--out", type=click.Path(path_type=Path), help="folder of the new picture")
@DRY_RUN
@JSON
def command(
    path: Path,
    number: int | None,
    adapters: tuple[str, ...],
    model: str | None,
    on_cpu: bool,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Draw a picture of sd3tune again, and say how equal both are.

    PICTURE is a PNG, JPEG or WebP of `sd3tune sample` or of a validation. CARD is the README.md of
    a model, or its folder; its pictures must be beside it. The settings are in the picture. Its
    adapter is found by its hash: near the picture, or in the run that drew it, whose checkpoint of
    that step must still be there. A base model on this disk may have to be named.

    On the same device with the same versions every pixel is the same. What differs here is said.
    Exit code 1 where both differ by more than another device explains (50 dB in float32).

    \b
      sd3tune reproduce output/validation_images/step_500_cat_0_512x512.png
      sd3tune reproduce downloaded/README.md --picture 2
      sd3tune reproduce cat.png --adapter cats.safetensors --model models/mine
    """
    from sd3tune.drawing import recorded_picture as recorded

    with waiting(f"reading {path}"):
        found = recorded.pictures_of(path)
        picture = recorded.chosen_picture(found, number)
        recorded.refuse_full(picture)
    plan, notes = _plan(picture, model, on_cpu=on_cpu)
    if len(found) > 1 and number is None:
        notes.append(f"{path} shows {len(found)} pictures: this is {picture.path}, the first one")
    words.tell([*words.notes(notes), f"picture  {picture.path}", *plan_lines(plan)])
    if dry_run:
        content = {"recipe": picture.recipe.as_json(), **plan_document(plan)}
        echo(words.document("reproduce", content)) if as_json else words.show(plan_lines(plan))
        return
    target, result, said = _draw(picture, plan, adapters, out or FOLDER)
    if as_json:
        content = {
            "picture": str(picture.path),
            "redrawn": str(target),
            "equal": result.equal,
            "decibels": result.decibels,
            "largest_difference": result.largest,
            "differences": said,
        }
        echo(words.document("reproduce", content))
    else:
        words.show([f"redrawn  {target}", *lines(result), *words.notes(said)])
    sys.exit(0 if result.close or (result.lossy and not picture.recipe.pixels_sha256) else 1)


def lines(result: "Compared") -> list[str]:
    """How equal both pictures are."""
    if result.equal:
        return ["equal    every pixel is the same"]
    lossy = ", compression included" if result.lossy else ""
    return [
        f"differs  {result.decibels:.1f} dB, at most {result.largest} of 255 in a colour{lossy}"
    ]


def _plan(
    picture: "RecordedPicture", model: str | None, *, on_cpu: bool
) -> "tuple[DrawingPlan, list[str]]":
    """With the number formats of the picture; where this machine lacks one, with its own."""
    from sd3tune.drawing import recorded_picture as recorded
    from sd3tune.drawing.prepared_drawing import plan_drawing
    from sd3tune.errors import PlanError
    from sd3tune.sd3 import models

    request, because = recorded.model_of(picture, model)
    described = models.find_whole(request)
    asked = recorded.asked_again(picture, described, request, because)
    try:
        return plan_drawing(asked, on_cpu=on_cpu), []
    except PlanError as e:
        warn(f"this machine cannot draw as the picture was drawn, and draws in its own way: {e}")
    asked = recorded.asked_again(picture, described, request, because, own=False)
    return plan_drawing(asked, on_cpu=on_cpu), []


def _draw(
    picture: "RecordedPicture", plan: "DrawingPlan", given: tuple[str, ...], folder: Path
) -> "tuple[Path, Compared, list[str]]":
    from dataclasses import replace

    from sd3tune.drawing.drawing_sources import Sources
    from sd3tune.drawing.picture_paths import paths_of
    from sd3tune.report import stopping
    from sd3tune.sd3.models import ModelRequest

    target = paths_of(folder, "png")(picture.path.stem, None, None)
    stopping.stop_when_told()
    with waiting("importing PyTorch"):
        import torch

        from sd3tune.encode.embeddings import load_encoders
        from sd3tune.sample import reproduction
        from sd3tune.sample.draw_stages import DrawingJob, Wanted, draw

    recipe = picture.recipe
    if recipe.threads is not None and not plan.facts.accelerated:
        torch.set_num_threads(recipe.threads)
    adapters = reproduction.adapters_again(picture, given, plan.model.transformer)
    source = recipe.model_source or plan.model.source.base
    sources = Sources(
        ModelRequest(source), "", (), picture.run, recipe.weights, recipe.training_step,
        recipe.adapter,
    )  # fmt: skip
    asked = replace(
        plan.asked,
        merged=any(not a.beside for a in adapters),
        adapter_values=sum(a.values for a in adapters),
    )
    products = recipe.precision.weights_only_layers
    size = recipe.width, recipe.height
    wanted = Wanted(picture.path.stem, recipe.prompt, size, recipe.seed, path=target)
    drawn: list[Any] = []
    draw(
        DrawingJob(replace(plan, asked=asked), sources, adapters, weights_only=products),
        [wanted],
        load_encoders,
        lambda _, image, made: drawn.extend((image, made)),
    )
    image, made = drawn
    said = list(reproduction.differences(recipe, made))
    return target, reproduction.compared(picture, image), said
