"""`sd3tune cache`: parse, call one function, print."""

import sys
from pathlib import Path

import click

from sd3tune.cli import arguments
from sd3tune.escaping import echo


@click.group()
def cache() -> None:
    """Encoded images and captions: what is there, fill it, check it, clear it.

    Entries are named by a hash of their content and of everything that changes the result, so
    nothing stale is ever used, and folders may be shared between runs.

    \b
      sd3tune cache info  my/config.json        entries, bytes, what is missing
      sd3tune cache build my/config.json        encode what is missing, and stop there
      sd3tune cache prune my/config.json        remove what this run does not want
      sd3tune cache verify my/output/cache      read every byte and compare checksums
    """


@cache.command()
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def info(words: tuple[str, ...], as_json: bool) -> None:
    """Entries, bytes, what a run of CONFIG would still have to encode, and what it does not use."""
    from sd3tune.cli import render

    prepared = arguments.prepared(words, None)
    from sd3tune.encode import store

    found = store.info(prepared)
    echo(render.cache_json(found) if as_json else render.cache(found))


@cache.command()
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def build(words: tuple[str, ...], as_json: bool) -> None:
    """Encode what CONFIG needs and is missing. Can be stopped and resumed; two can run at once."""
    from sd3tune.cli import render
    from sd3tune.report import stopping, streams

    streams.outlive()
    stopping.stop_when_told()
    prepared = arguments.prepared(words, None)
    from sd3tune.encode import store

    found = store.build(prepared)
    echo(render.cache_json(found) if as_json else render.cache(found))


@cache.command()
@click.argument("words", nargs=-1, metavar="[CONFIG]... [KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="count, and remove nothing")
def prune(words: tuple[str, ...], dry_run: bool) -> None:
    """Remove entries that none of the CONFIGs wants, from the folders they name.

    When several runs share a folder, give all of their configurations.
    """
    from sd3tune.cli import render

    configs = [w for w in words if "=" not in w or Path(w).exists()] or [str(arguments.CONFIG)]
    overrides = tuple(w for w in words if w not in configs)
    prepared = [arguments.prepared((name, *overrides), None) for name in configs]
    from sd3tune.encode import store

    echo(render.pruned(store.prune(prepared, dry_run=dry_run), dry_run=dry_run))


@cache.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR...",
)
@click.option("--repair", is_flag=True, help="remove damaged files: the next run makes them anew")
def verify(folders: tuple[Path, ...], repair: bool) -> None:
    """Read every byte below DIR and compare checksums. Exit code 1 when something is damaged."""
    from sd3tune.cli import render
    from sd3tune.encode import store

    whole, damaged = store.verify(folders, repair=repair)
    echo(render.verified(whole, damaged, repaired=repair))
    sys.exit(1 if damaged and not repair else 0)
