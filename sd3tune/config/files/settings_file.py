"""A configuration file, variables of the environment and the words of the command line, as one set
of settings under today's names. Whether the values are any good is not asked here.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from sd3tune.config import values
from sd3tune.config.files.env_file import read_env
from sd3tune.config.files.environment_variables import read_environment
from sd3tune.config.files.key_lines import json_lines, toml_lines
from sd3tune.config.files.locating import FILES, LAUNCHER, WITHOUT_FILE
from sd3tune.config.files.placeholders import Allowed, fill_in
from sd3tune.config.files.reading import (
    absolute_path,
    literal,
    read_json,
    read_text,
    read_words,
    without_dashes,
)
from sd3tune.config.files.toml_file import read_toml
from sd3tune.config.files.webhooks_file import SETTING
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.names import ALIASES, INVERTED, SPELLINGS
from sd3tune.config.problems import COMMAND_LINE, ENVIRONMENT, Problems, shown
from sd3tune.decision import Provenance
from sd3tune.errors import ConfigError, ErrorAndHint

OTHER_FORMATS = (".yaml", ".yml")
ENDINGS = ("", ".json", ".toml", ".env")  # that the name of a file may lack
LENGTHS = ("max_train_steps", "num_train_epochs")
BACKEND = "config_backend="
OF_LAUNCHER = ("num_processes", "num_machines", "mixed_precision", "dynamo_backend")


@dataclass(frozen=True)
class Layers:
    """What was written in each place, from the weakest to the strongest; the words of the command
    line are the last. file: where problems of missing settings are."""

    each: tuple[WrittenSettings, ...]
    file: str

    @property
    def merged(self) -> WrittenSettings:
        """What holds; keys keep the order of the weakest."""
        return reduce(merged, self.each)

    @property
    def sources(self) -> dict[str, Provenance]:
        """Where each setting that holds was written."""
        return {name: source for layer in self.each for name, source in layer.sources().items()}

    @property
    def order(self) -> list[str]:
        """The settings in the order in which problems of them are reported; "" stands for problems
        of several."""
        *weaker, words = self.each
        first = [name for layer in weaker for name in layer.values if name not in words.values]
        return [*first, "", *words.values]


@dataclass(frozen=True)
class FoundProblems:
    """file: of the file. typed: of the environment and the command line."""

    file: Problems = field(default_factory=Problems)
    typed: Problems = field(default_factory=Problems)


def find(path: Path) -> Path:
    """The file that `path` means, which may be its folder or lack its ending. Raises
    ConfigError."""
    absolute_path(str(path), Path.cwd(), COMMAND_LINE, "CONFIG")  # refuses what cannot be a path
    path = path.expanduser()
    if not path.is_dir():
        named = (path.with_name(path.name + ending) for ending in ENDINGS)
        return next((p for p in named if p.is_file()), path)
    names = [f"{folder}{name}" for folder in ("", "config/") for name in FILES.values()]
    return next((path / name for name in names if (path / name).is_file()), path)


def read_layers(
    path: Path,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    allowed: Allowed | None,
    texts: Container[str],
    problems: FoundProblems,
) -> Layers:
    """A file, the environment and the command line's words. A `config.env` holds before the
    environment, as in a shell; every other file behind it. allowed: as for `read_file`. Raises
    ConfigError when the file cannot be read at all."""
    backend = next((w.removeprefix(BACKEND) for w in overrides if w.startswith(BACKEND)), "")
    launcher = [Path(w.removeprefix(LAUNCHER)) for w in overrides if w.startswith(LAUNCHER)]
    words = [word for word in overrides if not word.startswith((BACKEND, LAUNCHER))]
    file = WrittenSettings(COMMAND_LINE)
    if backend not in WITHOUT_FILE:
        file = read_file(path, allowed, problems.file, texts)
    environment = WrittenSettings(ENVIRONMENT)
    if backend != "cmd":
        environment = renamed(
            read_environment(environ, problems.typed, texts, file.variables), problems.typed
        )
    typed = read_overrides(words, problems.typed, texts)
    files = (environment, file) if file.variables else (file, environment)
    first = [_of_launcher(path, texts) for path in launcher]
    return Layers((*first, *files, typed), file.file)


def _of_launcher(path: Path, texts: Container[str]) -> WrittenSettings:
    """What the `config.env` that chose the configuration says about processes: the weakest of all.
    Its other lines are not read."""
    found = renamed(read_env(path, Problems(), texts), Problems())
    kept = {name: value for name, value in found.values.items() if name in OF_LAUNCHER}
    return replace(found, values=kept, notes=[])


def read_file(
    path: Path, allowed: Allowed | None, problems: Problems, texts: Container[str]
) -> WrittenSettings:
    """The settings of the file. allowed: where its placeholders may stand, which are then filled
    in; None: they stay. Raises ConfigError when it cannot be read at all."""
    if path.suffix in OTHER_FORMATS and path.is_file():
        raise ConfigError(
            f"`{path}` is a {path.suffix[1:].upper()} file of another program",
            hint=f"`sd3tune config import {path}` translates it; sd3tune reads config.json, "
            "config.toml and config.env",
        )
    if path.suffix == ".env":
        written = read_env(path, problems, texts)
    else:
        written = _document(path, problems)
    written = renamed(written, problems)
    return written if allowed is None else _filled(written, allowed, problems)


def _filled(written: WrittenSettings, allowed: Allowed, problems: Problems) -> WrittenSettings:
    filled = replace(written, values={}, keys={}, lines={})
    for name, value in written.values.items():
        with problems.collecting(name):
            value = literal(value) if name == SETTING and isinstance(value, str) else value
            value = fill_in({name: value}, written.where, {}, allowed)[name]
            filled.set(name, value, written.keys[name], written.lines.get(name))
    return renamed(filled, problems)  # a variable's value may be an old spelling


def _document(path: Path, problems: Problems) -> WrittenSettings:
    """A JSON or TOML file. In the form of SimpleTuner's web page, `config` holds the settings."""
    if path.suffix == ".toml":
        data = read_toml(path, "configuration file")
        lines = toml_lines(read_text(path, "configuration file"), data)
        return without_dashes(data, path, problems, lines)
    data = read_json(path, dict, "configuration file", problems)
    text = read_text(path, "configuration file")
    lines = json_lines(text)
    if isinstance(data.get("config"), dict) and ("_metadata" in data or len(data) == 1):
        lines |= json_lines(text, "config")
        data = {k: v for k, v in data.items() if k != "config"} | data["config"]
    return without_dashes(data, path, problems, lines)


def read_overrides(
    words: Sequence[str], problems: Problems, texts: Container[str]
) -> WrittenSettings:
    """The settings of a command line's `key=value` words, under today's names."""
    return renamed(read_words(words, problems, texts), problems)


def merged(file: WrittenSettings, words: WrittenSettings) -> WrittenSettings:
    """The file's settings, and those of the words instead of or beside them; a length among the
    words replaces the file's, however either is counted. Keys keep the order of the file."""
    kept = dict(file.values)
    for one, other in (LENGTHS, LENGTHS[::-1]):
        if words.values.get(one) and other not in words.values:
            kept.pop(other, None)
    keys, notes = file.keys | words.keys, file.notes + words.notes
    return WrittenSettings(file.file, kept | words.values, keys, notes=notes)


def renamed(written: WrittenSettings, problems: Problems) -> WrittenSettings:
    """Other names and spellings as today's. Two names of one setting are a problem."""
    today = replace(written, values={}, keys={}, lines={})
    for old, value in written.values.items():
        name = ALIASES.get(old, old)
        if old in INVERTED:
            name, value = INVERTED[old], _inverted(value)
        spellings: Mapping[str, str] = SPELLINGS.get(name, {})
        value = spellings.get(value, value) if isinstance(value, str) else value
        if name in today.values and today.values[name] == value:
            continue
        if name in today.values:
            what = f"{written.where}: `{old}={shown(value)}` sets `{name}` a second time"
            problems.add(ErrorAndHint(what, "remove one of the two"), name)
            continue
        today.set(name, value, written.keys[old], written.lines.get(old))
    return today


def _inverted(value: Any) -> Any:
    """The opposite of true or false; anything else as it is, for the types to refuse."""
    try:
        return not values.flag(value)
    except ValueError:
        return value
