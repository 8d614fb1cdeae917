"""`sd3tune sample`: pictures of what was trained, or of a model."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON, RowName
from sd3tune.cli.drawing_options import DRY_RUN, MODEL, ON_CPU, plan_document, plan_lines
from sd3tune.escaping import echo
from sd3tune.report.progress import waiting
from sd3tune.tables.schemes import SCHEMES

if TYPE_CHECKING:
    from sd3tune.drawing.drawing_options import DrawingOptions

FORMATS = ("png", "jpg", "webp")


@dataclass(frozen=True)
class _Given:
    """The options that say what to draw and where it goes."""

    prompts: tuple[str, ...]
    prompt_files: tuple[Path, ...]
    adapters: tuple[str, ...]
    model: str | None
    strength: float
    count: int
    out: Path | None
    format: str
    quality: int
    on_cpu: bool
    chip: str | None
    options: "DrawingOptions" = field(repr=False)


@click.command("sample", short_help="Draw with an adapter, a run's result, or a model.")
@click.argument("source", metavar="SOURCE")
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option(
    "--prompts",
    "prompt_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="prompts: a .txt with one in each line, or a .json library",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FILE[:STRENGTH]",
    help="a further adapter; may be repeated",
)
@MODEL
@click.option("--strength", type=float, default=1.0, help="of adapters without one  [1]")
@click.option("--negative", metavar="TEXT", help="negative prompt")
@click.option("--size", metavar="WxH[,WxH]", help="of the pictures, in pixels")
@click.option("--steps", type=int, help="sampling steps")
@click.option("--guidance", type=float, help="classifier-free guidance; 1 is none")
@click.option("--seed", type=int, help="of the first picture of each prompt")
@click.option("--count", type=click.IntRange(1, 1000), default=1, help="per prompt and size  [1]")
@click.option("--shift", metavar="NUMBER|auto", help="of noise levels; auto: by the size")
@click.option("--sampler", type=click.Choice(["euler", "heun", "unipc", "dpm++"]), help="[euler]")
@click.option("--skip-layers", metavar="7,8,9|none", help="blocks of skip-layer guidance")
@click.option("--skip-scale", type=float, help="its strength  [2.8]")
@click.option("--skip-start", type=float, help="share of the steps before it  [0.01]")
@click.option("--skip-stop", type=float, help="share of the steps at its end  [0.2]")
@click.option(
    "--quantise",
    type=RowName(SCHEMES),
    metavar="SCHEME",
    help="of the transformer's weights: a value of base_model_precision",
)
@click.option("--text-tokens", type=click.IntRange(1, 256), help="T5 tokens of a prompt")
@ON_CPU
@click.option("--on", "chip", metavar="NAME", help="with --dry-run: plan for another machine")
@click.option("--out", type=click.Path(path_type=Path), help="folder of the pictures")
@click.option("--format", type=click.Choice(FORMATS), default="png", help="of the files  [png]")
@click.option("--quality", type=click.IntRange(1, 100), default=90, help="of jpg and webp  [90]")
@DRY_RUN
@JSON
def command(
    source: str,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    adapters: tuple[str, ...],
    model: str | None,
    strength: float,
    count: int,
    quantise: str | None,
    on_cpu: bool,
    chip: str | None,
    out: Path | None,
    format: str,
    quality: int,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Draw pictures on this machine and write each with what it was drawn from.

    SOURCE is an adapter file of any dialect, the output folder of a run or one of its checkpoints,
    a model folder, a repository of the hub, or a single-file model. An adapter may end with its
    strength, and more adapters may follow. The base model, the size and the sampling settings come
    from the run, where there is one.

    Precision, quantisation, attention kernels and what waits in host memory are chosen for this
    machine as for training, and shown with their reasons. Ctrl-C leaves whole files.

    \b
      sd3tune sample output "a tabby cat with green eyes"
      sd3tune sample cats.safetensors:0.8 ink.safetensors:0.5 "a cat" --count 4
      sd3tune sample models/sd3.5-medium "a red fox" --skip-layers 7,8,9
      sd3tune sample output --prompts prompts.txt --size 1024x1024,768x1344
    """
    with waiting("reading what to draw with"):
        from sd3tune.drawing.drawing_options import DrawingOptions

    precision = {} if quantise is None else {"base_model_precision": quantise}
    given = _Given(
        prompts=prompts,
        prompt_files=prompt_files,
        adapters=adapters,
        model=model,
        strength=strength,
        count=count,
        out=out,
        format=format,
        quality=quality,
        on_cpu=on_cpu,
        chip=chip,
        options=DrawingOptions(**how, precision=precision),
    )
    _sample(given, source, dry_run=dry_run, as_json=as_json)


def _sample(given: _Given, source: str, *, dry_run: bool, as_json: bool) -> None:
    from sd3tune.drawing import drawing_request

    if given.chip is not None and not dry_run:
        raise click.UsageError("--on plans for another machine: add --dry-run")
    request = drawing_request.read(
        source,
        given.prompts,
        given.prompt_files,
        given.options,
        adapters=given.adapters,
        model=given.model,
        strength=given.strength,
    )
    words.tell(words.notes(request.sources.notes))
    if dry_run:
        plan = request.plan(on_cpu=given.on_cpu, chip=given.chip)
        echo(words.document("sample", plan_document(plan))) if as_json else words.show(
            plan_lines(plan)
        )
        return
    files = _draw(given, request)
    if as_json:
        echo(words.document("sample", {"pictures": files}))
    else:
        words.show(f"wrote  {entry['path']}" for entry in files)


def _draw(given: _Given, request: Any) -> list[dict[str, Any]]:
    """Draws, and returns a file with its recipe for each picture, then the grid."""
    from sd3tune.drawing.picture_paths import paths_of
    from sd3tune.report import stopping

    stopping.stop_when_told()
    with waiting("importing PyTorch"):
        from sd3tune.encode.embeddings import load_encoders
        from sd3tune.sample import adapted
        from sd3tune.sample.draw_stages import DrawingJob, Wanted, draw
        from sd3tune.sample.picture_grid import write_grid

    adapters = adapted.read_adapters(request.sources.adapters, request.model.transformer)
    request = request.with_adapters(
        merged=any(not a.beside for a in adapters),
        values=sum(a.values for a in adapters),
        modulating=any(a.beside and a.modulating for a in adapters),
    )
    plan = request.plan(on_cpu=given.on_cpu)
    words.tell(plan_lines(plan))
    folder = given.out or request.folder
    paths = paths_of(folder, given.format)
    wanted = [
        Wanted(prompt.shortname, prompt.text, size, request.seed + index, index,
               paths(prompt.shortname, request.seed + index, size))
        for prompt in request.prompts
        for size in plan.asked.sizes
        for index in range(given.count)
    ]  # fmt: skip
    files: list[dict[str, Any]] = []
    try:
        draw(
            DrawingJob(plan, request.sources, adapters, given.quality),
            wanted,
            load_encoders,
            lambda w, _, recipe: files.append({"path": str(w.path), "recipe": recipe.as_json()}),
        )
    except KeyboardInterrupt:
        kept = f"{len(files)} of {len(wanted)} pictures are in {folder}"
        words.show_error("interrupted", f"{kept}; the same command draws all of them again")
        sys.exit(130)
    if (grid := write_grid(wanted, paths)) is not None:
        files.append({"path": str(grid), "recipe": None})
    return files
