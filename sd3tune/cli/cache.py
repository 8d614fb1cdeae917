"""`sd3tune cache`: encoded images and captions on the disk."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, prepared
from sd3tune.cli.dashes import SettingsAsOptions
from sd3tune.escaping import echo
from sd3tune.report.progress import waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sd3tune.data.shards import Damage
    from sd3tune.encode.census import Built

IMPORTING = "importing PyTorch"


@click.group("cache", short_help="Encoded images and captions on the disk.")
def command() -> None:
    """Show, fill, prune and check the caches of encoded images and captions.

    Entries are named by a hash of their content and of everything that changes the result, so
    nothing stale is ever used, and runs may share a folder.

    \b
      sd3tune cache info  my/config.json     entries, bytes, what is missing
      sd3tune cache build my/config.json     encode what is missing
      sd3tune cache prune my/config.json     remove what this run does not need
      sd3tune cache verify my/output/cache   read every byte, compare checksums
    """


@command.command(cls=SettingsAsOptions, short_help="Entries, bytes, and what is missing.")
@CONFIG_AND_OVERRIDES
@JSON
def info(arguments: tuple[str, ...], as_json: bool) -> None:
    """Show entries, bytes, what a run of CONFIG would have to encode, and what it does not use."""
    ready = prepared(arguments)
    with waiting("reading the caches"):
        from sd3tune.encode import census

        built = census.info(ready)
    echo(document(built)) if as_json else words.show([*lines(built), *compiled_lines()])


@command.command(cls=SettingsAsOptions)
@CONFIG_AND_OVERRIDES
@JSON
def build(arguments: tuple[str, ...], as_json: bool) -> None:
    """Encode what CONFIG needs and is missing. The command can be stopped and started again, and
    several can run at once."""
    from sd3tune.report import stopping, streams

    streams.outlive()
    stopping.stop_when_told()
    ready = prepared(arguments)
    with waiting(IMPORTING):
        from sd3tune.encode import upkeep

    built = upkeep.build(ready)
    echo(document(built)) if as_json else words.show(lines(built))


@command.command(cls=SettingsAsOptions, short_help="Remove entries that no CONFIG needs.")
@click.argument("arguments", nargs=-1, metavar="[CONFIG]... [KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="count, and remove nothing")
def prune(arguments: tuple[str, ...], dry_run: bool) -> None:
    """Remove the entries that none of the CONFIGs needs from the folders they name.

    When several runs share a folder, give all of their configurations. Code that torch.compile made
    for other versions of PyTorch or Python is removed too.
    """
    configs = [a for a in arguments if "=" not in a or Path(a).exists()]
    overrides = tuple(a for a in arguments if a not in configs)
    ready = [prepared((config, *overrides)) for config in configs] or [prepared(overrides)]
    label = "unused" if dry_run else "removed"
    with waiting("comparing the caches with the datasets"):
        from sd3tune.encode import cleaning

        pruned = cleaning.prune(ready, dry_run=dry_run)
    words.show(f"{count:>8} {label}  {folder}" for folder, count in pruned)
    from sd3tune.train import compiled_code

    gone = compiled_code.prune(compiled_code.root(os.environ), dry_run=dry_run)
    if gone:
        words.show(compiled_lines(label, gone))


@command.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR...",
)
@click.option("--repair", is_flag=True, help="remove damaged files; the next run encodes them anew")
def verify(folders: tuple[Path, ...], repair: bool) -> None:
    """Read every byte below DIR and compare checksums. Exit code 1 when something is damaged."""
    from sd3tune.encode import cleaning

    whole, damaged = cleaning.verify(folders, repair=repair)
    words.show(verified(whole, damaged, repaired=repair))
    sys.exit(1 if damaged and not repair else 0)


def lines(built: "Built") -> list[words.Line]:
    """Each cache folder: entries, bytes, what this run wants and what it does not use."""
    from sd3tune.plan.memory import gib

    shown: list[words.Line] = []
    for held in built.held:
        each = f", {held.bytes_per_entry:,} bytes each" if held.entries else ""
        unusable = f"; {held.problems} known to be unusable" if held.problems else ""
        shown += [
            f"{held.kind:<9} {held.folder}",
            f"  {held.entries} entries in {held.shards} files, {gib(held.size_bytes)}{each}",
            f"  this run wants {held.wanted}, {held.missing} missing; {held.unused} unused"
            + unusable,
        ]
    return [*shown, f"{built.seconds:.1f} s"]


def compiled_lines(
    label: str = "compiled", sizes: "Mapping[str, int] | None" = None
) -> list[words.Line]:
    """Code of torch.compile, which all runs of this user share. sizes: bytes of each version of
    PyTorch and Python; None: of all that are kept."""
    from sd3tune.plan.memory import gib
    from sd3tune.train import compiled_code

    parent = compiled_code.root(os.environ)
    shown = compiled_code.held(parent) if sizes is None else sizes
    return [f"{label:<9} {parent}/{name}: {gib(size)}" for name, size in shown.items()]


def document(built: "Built") -> str:
    """`cache info --json` and `cache build --json`."""
    from sd3tune.train import compiled_code

    compiled = compiled_code.held(compiled_code.root(os.environ))
    caches = [
        asdict(held)
        | {
            "folder": str(held.folder),
            "unused": held.unused,
            "bytes_per_entry": held.bytes_per_entry,
        }
        for held in built.held
    ]
    return words.document(
        "cache", {"seconds": round(built.seconds, 3), "caches": caches, "compiled": compiled}
    )


def verified(whole: int, damaged: "Sequence[Damage]", *, repaired: bool) -> list[words.Line]:
    """Damaged files with their reasons, and a count."""
    shown: list[words.Line] = [f"{d.path}: {d.reason} ({d.entries} entries)" for d in damaged]
    count = f"{whole} entries whole, {len(damaged)} files damaged"
    if damaged:
        count += ", removed" if repaired else "; --repair removes them"
    return [*shown, count]
