"""`sd3tune config`: configuration files. Shows what every setting ends up as, checks the files of a
run, and converts between formats. Nothing is trained, and no device is asked."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import config_compare, config_import, words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, announced
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
      sd3tune config convert --to toml           the same settings as TOML
      sd3tune config import kohya.toml -o DIR    from another trainer
      sd3tune config compare A B                 learning-rate equivalents
    """


command.add_command(config_import.command)
command.add_command(config_compare.command)


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
    path, overrides = announced(rest)
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
    """Report every problem of CONFIG and of the files and folders it names, at once. Exit code 1
    when there is one.

    No image is opened, no server and no device is asked: `sd3tune dataset` looks at the images, and
    `sd3tune plan` at the machine. CONFIG is found as for `sd3tune train` unless given. Each
    KEY=VALUE overrides the file.
    """
    from sd3tune.checked_run import check_files

    path, overrides = announced(arguments)
    datasets = check_files(path, overrides)
    words.show([*words.notes(datasets.notes), f"ok  {path}"])


@command.command(cls=SettingsAsOptions, short_help="The same settings in another format.")
@CONFIG_AND_OVERRIDES
@click.option("--to", "kind", type=click.Choice(["json", "toml", "env"]), help="the format")
@click.option(
    "-o", "output", type=click.Path(path_type=Path), metavar="FILE", help="instead of stdout"
)
def convert(arguments: tuple[str, ...], kind: str | None, output: Path | None) -> None:
    """Write the settings of CONFIG in another format, under their names of today.

    The new file means the same: paths become absolute where it lies in another project. Each
    KEY=VALUE overrides the file. Comments, and settings that ask for nothing, are left out. With
    -o, the ending of FILE says the format; a file that is there is never overwritten.

    \b
      sd3tune config convert --to toml
      sd3tune config convert config/config.env -o config/config.json
    """
    from sd3tune.config.config import read
    from sd3tune.config.files.converting import converted
    from sd3tune.config.files.formats import FORMATS
    from sd3tune.errors import ConfigError
    from sd3tune.filesystem import disk, drafts

    kind = kind or (output.suffix[1:] if output else "json")
    if kind not in FORMATS:
        raise ConfigError(f"`{output}` has no ending of a format", hint="add --to json|toml|env")
    if output is not None and output.exists():
        raise ConfigError(f"`{output}` is there already", hint="give another name, or remove it")
    path, overrides = announced(arguments)
    environ = os.environ if "config_backend=env" in overrides else {}
    reading = read(path, overrides, environ)
    if reading.problems:
        raise ConfigError.of(reading.problems)
    settings = converted(path, overrides, environ, reading, output or path)
    text = FORMATS[kind](settings)
    if output is None:
        echo(text.rstrip("\n"))
        return
    with disk.explained("configuration", output):
        output.parent.mkdir(parents=True, exist_ok=True)
        drafts.write(output, text.encode())
    words.show([f"wrote  {output}"])


@command.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
def example(folder: Path) -> None:
    """Write example files to DIR/config: settings as JSON and, with comments, as TOML, datasets,
    and prompts. Files that are there are kept."""
    from sd3tune.config.example_files import write_examples

    examples = write_examples(folder)
    words.show(
        [
            *(f"wrote  {path}" for path in examples.written),
            *(f"kept   {path}" for path in examples.kept),
            "",
            f"next   cp {folder / 'config/config.json.example'} {folder / 'config/config.json'}",
        ]
    )


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
    """ "config/config.json:3", "the command line", "the environment variable SEED", "default", or
    what it follows from."""
    from sd3tune.config.problems import ENVIRONMENT

    if source.file is None:
        return "default" if source.by == "default" else "decided by the plan"
    if source.file == ENVIRONMENT:
        spot = f"the environment variable {source.key}"
    else:
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
