"""`sd3tune publish`: a finished run on a hub of Hugging Face."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.report.progress import say, waiting

if TYPE_CHECKING:
    from sd3tune.plan.plan import Plan

MIB = 2**20


@click.command("publish", short_help="Upload a finished run to a hub of Hugging Face.")
@click.argument("output", type=click.Path(path_type=Path), metavar="OUTPUT_DIR")
@click.option("--to", "name", metavar="NAME", help="the repository; left out: as the run named it")
@click.option("--public", is_flag=True, help="a new repository is public; otherwise it is private")
@click.option("--checkpoints", is_flag=True, help="upload the adapter of each checkpoint too")
@click.option("--dry-run", is_flag=True, help="show the files and the model card, upload nothing")
def command(output: Path, name: str | None, public: bool, checkpoints: bool, dry_run: bool) -> None:
    """Upload the result of a finished run, with its model card, to a hub of Hugging Face.

    OUTPUT_DIR is the output_dir of the run. What the hub has already is not uploaded again, so that
    the same command ends an upload that was interrupted. Only files of the result go up: weights,
    the model card with its pictures, and the settings of training without paths. HF_ENDPOINT names
    another hub; HF_TOKEN or `hf auth login` the account.

    \b
      sd3tune publish output --dry-run
      sd3tune publish output --to my-style
    """
    with waiting(f"reading {output}"):
        repository = repository_of(output, name)
        shown = dry_run_lines(output, repository, checkpoints) if dry_run else []
    if dry_run:
        words.show(shown)
        return
    words.show([uploaded(output, repository, public=public, checkpoints=checkpoints)])


def uploaded(output: Path, repository: str, *, public: bool, checkpoints: bool) -> str:
    """Uploads; returns what was done. Raises Sd3tuneError."""
    from sd3tune.publish.login import destination
    from sd3tune.publish.publication import publish
    from sd3tune.publish.published_files import files_of_run

    files_of_run(output, repository)  # before anybody is asked
    with waiting("asking the hub"):
        to = destination(repository, private=not public, asked="sd3tune publish")
    with waiting(f"uploading to {to.shown}"):
        return publish(output, to, checkpoints=checkpoints).sentence


def repository_of(output: Path, name: str | None) -> str:
    """The repository: `name`, or as the run of this folder named it. Raises ConfigError."""
    from sd3tune.config.repositories import model_id
    from sd3tune.publish.publication import named_by_run

    try:
        found = model_id(name) if name is not None else named_by_run(output)
    except ValueError as e:
        raise ConfigError(f"`--to {name}` {e}", hint="as in --to my-style") from None
    if not found:
        raise ConfigError(f"`{output}`: its run names no repository", hint="give one: --to NAME")
    return str(found)


def dry_run_lines(output: Path, repository: str, checkpoints: bool) -> list[words.Line]:
    """Each file with its size, and the card as it would stand there."""
    from sd3tune.publish import card, publication, published_files

    files = published_files.files_of_run(output, repository)
    for folder in publication.checkpoints_of(output) if checkpoints else ():
        files += published_files.files_of_checkpoint(folder)
    shown: list[words.Line] = [f"repository  {repository}"]
    shown += [f"{file.size_bytes / MIB:>9.2f} MiB  {file.name}" for file in files]
    page = next((file.content for file in files if file.name == card.FILE), None)
    if page is None:
        return [*shown, f"note: there is no model card ({card.FILE})"]
    return [*shown, "", *page.decode().splitlines()]


def check_login(plan: "Plan") -> None:
    """With push_to_hub: raises ConfigError, before anything is encoded, for a hub that will not
    take the result from here."""
    if plan.publishing.push.value:
        from sd3tune.publish.login import destination

        with waiting("asking the hub whether it takes the result"):
            to = destination(plan.publishing.repository, private=plan.publishing.private)
        say(f"the result goes to {to.shown}")


def caught_up(plan: "Plan") -> list[words.Line]:
    """Uploads what a finished run with push_to_hub has not; a line about it. Empty without
    push_to_hub."""
    hub = plan.publishing
    if not hub.push.value:
        return []
    try:
        done = uploaded(
            plan.output_dir, hub.repository, public=not hub.private, checkpoints=hub.checkpoints
        )
    except Sd3tuneError as e:
        return [f"not published    {e}"]
    return [f"hub              {done}"]
