"""Words of a command line to what commands work on: the configuration file, and a plan."""

from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.escaping import echo, one_line

if TYPE_CHECKING:
    from sd3tune.prepare import Prepared

CONFIG = Path("config/config.json")


def prepared(words: tuple[str, ...], chip: str | None) -> "Prepared":
    """Configuration, machine and dataset to a plan."""
    from sd3tune.cli import render
    from sd3tune.formats.beginning import refuse_unfit
    from sd3tune.prepare import prepare

    path, overrides = config_of(words)
    made = prepare(path, overrides, chip)
    config = made.plan.config
    if config.init_lora is not None:
        lycoris = made.plan.trained.lycoris is not None
        refuse_unfit(config.init_lora, lycoris=lycoris, rank=config.lora_rank)
    if made.plan.processes.main:
        notes = render.notes(made.datasets.notes)
        for line in [*notes, *render.set_aside(made.discoveries)]:
            echo(one_line(line), err=True)
    return made


def config_of(words: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The file, and the words that override it."""
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        return Path(words[0]), words[1:]
    return CONFIG, words
