"""What several commands take: the configuration with its overrides, and `--json`."""

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.escaping import sentence
from sd3tune.report.progress import say, waiting, warn
from sd3tune.tables.table import Table

if TYPE_CHECKING:
    from sd3tune.config.files.locating import Located
    from sd3tune.data.discover import RejectedFile
    from sd3tune.prepare import Prepared

LOG = logging.getLogger(__name__)
CONFIG = Path("config/config.json")
MOST_REJECTED = 5  # files that are named, of each dataset
CONFIG_AND_OVERRIDES = click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
CONFIGS_AND_OVERRIDES = click.argument("arguments", nargs=-1, metavar="[CONFIG]... [KEY=VALUE]...")
JSON = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")


class RowName(click.ParamType[str]):
    """The name of a row of a table, or one of its aliases: the help lists the names as the table
    is when it is asked."""

    name = "name"

    def __init__(self, table: Table[Any]) -> None:
        self._table = table

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self._table)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._table:
            self.fail(f"{value!r} is not one of {self._table.listed()}.", param, ctx)
        return str(self._table[value].name)


def config_of(arguments: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The configuration file, and each KEY=VALUE that overrides it: the file is the first word, or
    the first without `=`. Where there is none, one is looked for. Raises ConfigError."""
    located = located_by(arguments)
    return located.path, located.words


def located_by(arguments: tuple[str, ...]) -> "Located":
    """The configuration file as `config_of` has it, with the sentence that says which one was
    chosen. Raises ConfigError."""
    from sd3tune.config.files.locating import Located, locate

    for at, word in enumerate(arguments):
        if "=" not in word or (at == 0 and Path(word).exists()):
            return Located(Path(word), arguments[:at] + arguments[at + 1 :])
    return locate(arguments, os.environ)


def announced(arguments: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """As `config_of`; says which file was chosen where the user named none."""
    located = located_by(arguments)
    if located.sentence:
        say(located.sentence)
    return located.path, located.words


def prepared(arguments: tuple[str, ...], chip: str | None = None) -> "Prepared":
    """The plan for a configuration on this machine, or on `chip`; prints on stderr what is left out
    of the datasets. Raises Sd3tuneError."""
    path, overrides = announced(arguments)
    LOG.debug(f"configuration {path}, overridden by {' '.join(overrides) or 'nothing'}")
    started = time.perf_counter()
    with waiting("planning"):
        from sd3tune.counted.counting import peak_bytes
        from sd3tune.prepare import prepare_run

        ready = prepare_run(path, overrides, chip, peak_bytes)
    LOG.debug(f"planned in {time.perf_counter() - started:.1f} s")
    config = ready.plan.config
    if config.init_lora is not None:
        from sd3tune.formats.initial_adapter import refuse_unfit

        lycoris = ready.plan.trained.lycoris is not None
        assumed = refuse_unfit(config.init_lora, lycoris=lycoris, rank=config.lora_rank)
        say(*words.notes([f"init_lora: {sentence}" for sentence in assumed]))
    say(*words.notes(ready.datasets.notes))
    for name, discovery in ready.discoveries.items():
        if discovery.rejected:
            warn_of_rejected(name, discovery.rejected)
    return ready


def warn_of_rejected(dataset: str, rejected: "Sequence[RejectedFile]") -> None:
    """Files that will not be trained on, with their reasons."""
    count = len(rejected)
    details = [f"  {sentence(r.path)}: {sentence(r.reason)}" for r in rejected[:MOST_REJECTED]]
    if count > MOST_REJECTED:
        reasons = Counter(r.reason for r in rejected[MOST_REJECTED:]).most_common(3)
        why = "; ".join(f"{n} x {sentence(reason)}" for reason, n in reasons)
        details.append(f"  and {count - MOST_REJECTED} more: {why}")
    warn(f"dataset `{dataset}`: {count} file{'s' * (count > 1)} set aside", *details)
