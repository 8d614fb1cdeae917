"""`sd3tune config`: configuration files. Shows what every setting ends up as, checks the files of a
run, and converts between formats. Nothing is trained, and no device is asked."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, config_of
from sd3tune.cli.dashes import SettingsAsOptions
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.config.final_settings import FinalSetting
    from sd3tune.decision import Provenance

NAMES, VALUES = 32, 28  # characters of the first columns


@click.group("config", short_help="Show, check and convert configuration files.")
def command() -> None:
    """Show what a configuration means, check its files, and convert it.

    \b
      sd3tune config show my/config.json         each value, and where it is set
      sd3tune config show learning_rate seed     only these
      sd3tune config check my/config.json        every problem at once
    """


@command.command(cls=SettingsAsOptions, short_help="Each setting's value, and where it is set.")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY]... [KEY=VALUE]...")
@click.option("--all", "with_defaults", is_flag=True, help="settings that nobody set, too")
@JSON
def show(arguments: tuple[str, ...], with_defaults: bool, as_json: bool) -> None:
    """Show the final value of each setting and where it comes from: file and line, environment
    variable, command line, or default.

    CONFIG is found as for `sd3tune train` unless given. With KEYs, only these are shown. What is
    wrong is reported after what is right, with exit code 1.
    """
    from sd3tune.config.config import read
    from sd3tune.config.final_settings import final_settings
    from sd3tune.errors import ConfigError

    keys, rest = keys_of(arguments)
    path, overrides = config_of(rest)
    reading = read(path, overrides)
    shown = [
        setting
        for setting in final_settings(reading.settings, keys or None)
        if setting.name not in reading.wrong and (keys or with_defaults or setting.written)
    ]
    echo(document(shown)) if as_json else words.show(lines(shown))
    if reading.problems:
        raise ConfigError.of(reading.problems)


@command.command(cls=SettingsAsOptions, short_help="Every problem of a configuration at once.")
@CONFIG_AND_OVERRIDES
def check(arguments: tuple[str, ...]) -> None:
    """Report every problem of CONFIG and of the files it names, at once. Exit code 1 when there is
    one.

    CONFIG is found as for `sd3tune train` unless given. Each KEY=VALUE overrides the file.
    """
    from sd3tune.config.run_files import load_run

    path, overrides = config_of(arguments)
    _, datasets = load_run(path, overrides)
    words.show([*words.notes(datasets.notes), f"ok  {path}"])


def keys_of(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that name settings, as the settings are called today, and the other words."""
    from sd3tune.config.names import ALIASES, INVERTED
    from sd3tune.config.settings.all_settings import AllSettings

    today = {word: ALIASES.get(word, INVERTED.get(word, word)) for word in arguments}
    keys = tuple(name for name in today.values() if name in AllSettings.model_fields)
    return keys, tuple(word for word in arguments if today[word] not in keys)


def lines(settings: "Iterable[FinalSetting]") -> list[words.Line]:
    """Name, value and source of each, a line each."""
    return [
        (
            f"{s.name:<{NAMES}}{json.dumps(s.value, ensure_ascii=False):<{VALUES}}",
            source_in_words(s.source),
        )
        for s in settings
    ]


def source_in_words(source: "Provenance") -> str:
    """ "config/config.json:3", "the command line", "default", or what it follows from."""
    if source.file is None:
        return "default" if source.by == "default" else "decided by the plan"
    spot = source.file if source.line is None else f"{source.file}:{source.line}"
    return spot if source.by == "user" else f"follows from {source.key} ({spot})"


def document(settings: "Iterable[FinalSetting]") -> str:
    """`config show --json`."""
    return words.document(
        "config show",
        {
            "settings": [
                {"name": s.name, "value": s.value, "source": s.source.as_json} for s in settings
            ]
        },
    )
