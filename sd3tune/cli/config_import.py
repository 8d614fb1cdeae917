"""`sd3tune config import`: a configuration of another trainer as files of sd3tune."""

from pathlib import Path

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.escaping import echo


@click.command("import", short_help="Translate a configuration of another trainer.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="write DIR/config/config.json and its companions; left out: only show what they would be",
)
@click.option(
    "--continue",
    "adapter",
    type=click.Path(path_type=Path),
    metavar="ADAPTER",
    help="begin with an adapter that was trained before (init_lora, with its rank and alpha)",
)
@JSON
def command(file: Path, output: Path | None, adapter: Path | None, as_json: bool) -> None:
    """Translate a configuration of another trainer, and say what becomes of each of its settings.

    FILE is of kohya's sd-scripts (toml, or a .sh or .bat with the command), OneTrainer (json),
    ai-toolkit (yaml), the diffusers script (a command) or ComfyUI's trainer node (a workflow), or
    an adapter (.safetensors) that a run shall continue. The content decides, not the name. Nothing
    is executed and no file is overwritten.

    \b
      sd3tune config import kohya.toml -o my-lora
      sd3tune config import train.sh -o my-lora --continue my_lora.safetensors
      sd3tune config import ai-toolkit.yaml --json | jq .unmapped
    """
    from sd3tune.cli import import_lines
    from sd3tune.imports import project
    from sd3tune.imports.metadata import continue_from
    from sd3tune.imports.trainers import translated

    t = translated(file)
    if adapter is not None:
        continue_from(t, adapter)
    done = project.write(t, output) if output else project.Imported(t, project.files_of(t))
    if as_json:
        echo(import_lines.document(done))
    else:
        words.show(import_lines.lines(done, None if output is None else str(output)))
