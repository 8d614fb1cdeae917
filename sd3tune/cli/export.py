"""`sd3tune export`: an adapter in another program's dialect, or a transformer as one file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import RowName
from sd3tune.report.progress import waiting
from sd3tune.tables.dialects import DIALECTS

if TYPE_CHECKING:
    from sd3tune.formats.convert import Exported


@click.command("export", short_help="Write an adapter in the dialect of another program.")
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@click.option(
    "--to",
    "dialect",
    required=True,
    type=RowName(DIALECTS),
    help="the dialect of a program; SwarmUI's is comfyui",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write; left out: beside SOURCE, with the dialect in its name",
)
@click.option(
    "--model", metavar="MODEL", help="the base it was trained on: DoRA, OFT and GLoRA need it"
)
@click.option(
    "--rank",
    type=click.IntRange(1),
    help="turn what is not a LoRA into a LoRA of this rank; the error is printed",
)
@click.option("--force", is_flag=True, help="write over an existing file")
def command(
    source: Path,
    dialect: str,
    output: Path | None,
    model: str | None,
    rank: int | None,
    force: bool,
) -> None:
    """Write an adapter so that another program renders it as it was trained.

    SOURCE is an adapter file of any dialect, a folder that holds one (of peft, a checkpoint, the
    output of a run). From a diffusers model folder, --to comfyui writes the transformer as one
    file. Nothing is dropped: a part that the dialect cannot hold is an error, with a hint.

    \b
      sd3tune export output --to comfyui
      sd3tune export dora.safetensors --to comfyui --model models/sd3.5-medium
      sd3tune export lokr.safetensors --to diffusers --rank 32
    """
    with waiting(f"writing {source} as {dialect}"):
        from sd3tune.formats.convert import export

        done = export(source, dialect, output=output, model=model, rank=rank, force=force)
    words.show(lines(done))


def lines(done: "Exported") -> list[words.Line]:
    """What was assumed or could not be kept exactly, and the file."""
    return [*words.notes(done.notes), f"wrote  {done.path}"]
