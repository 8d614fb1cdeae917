"""`sd3tune demo`: tiny models, photographs and configuration files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.report.progress import waiting
from sd3tune.tables import architectures

if TYPE_CHECKING:
    from sd3tune.demo import WrittenDemo


@click.command("demo", short_help="Write tiny models, photographs and configuration.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--model",
    default=architectures.DEFAULT.name,
    show_default=True,
    type=click.Choice(list(architectures.ARCHITECTURES)),
    help="which of the tiny models the configuration trains",
)
@click.option("--force", is_flag=True, help="write everything again over an older demo")
def command(folder: Path, model: str, force: bool) -> None:
    """Write tiny SD3 models, captioned photographs and configuration files to DIR.

    The models have the real architectures and random weights: they train, save and sample through
    the code path of the 8B model, and their pictures are noise.
    """
    from sd3tune.demo import write

    with waiting("writing the demo"):
        written = write(folder, model=model, force=force)
    words.show(lines(written))


def lines(written: "WrittenDemo") -> list[words.Line]:
    """What was written, and the command to go on with."""
    return [
        *(f"wrote  {path}" for path in written.paths),
        "",
        f"next   {written.next_command}",
    ]
