"""config.json or config.env and the words that override it, as one set of settings under today's
names. Whether the values are any good is not asked here.
"""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune.config import values
from sd3tune.config.files.env_file import read_env
from sd3tune.config.files.placeholders import Allowed, fill_in
from sd3tune.config.files.reading import (
    absolute_path,
    literal,
    read_json,
    read_words,
    without_dashes,
)
from sd3tune.config.files.webhooks_file import SETTING
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.names import ALIASES, INVERTED, SPELLINGS
from sd3tune.config.problems import COMMAND_LINE, Problems, shown
from sd3tune.errors import ConfigError, ErrorAndHint

OTHER_FORMATS = (".toml", ".yaml", ".yml")
LENGTHS = ("max_train_steps", "num_train_epochs")


def find(path: Path) -> Path:
    """The file that `path` means, which may be its folder. Raises ConfigError."""
    absolute_path(str(path), Path.cwd(), COMMAND_LINE, "CONFIG")  # refuses what cannot be a path
    path = path.expanduser()
    if not path.is_dir():
        return path
    inside = [path / name for name in ("config.json", "config.env", "config/config.json")]
    return next((p for p in inside if p.is_file()), path)


def read_file(
    path: Path, allowed: Allowed, problems: Problems, texts: Container[str]
) -> WrittenSettings:
    """The settings of the file, with its placeholders filled in. Raises ConfigError when it cannot
    be read at all."""
    if path.suffix in OTHER_FORMATS and path.is_file():
        raise ConfigError(
            f"`{path}` is a {path.suffix[1:].upper()} file of another program",
            hint="sd3tune reads config.json; `sd3tune demo DIR` writes an example, and "
            "docs/reference/settings.md lists what other programs call its settings",
        )
    if path.suffix == ".env":
        written = read_env(path, problems, texts)
    else:
        written = without_dashes(
            read_json(path, dict, "configuration file", problems), path, problems
        )
    written = renamed(written, problems)
    filled = WrittenSettings(written.file, notes=written.notes)
    for name, value in written.values.items():
        with problems.collecting(name):
            value = literal(value) if name == SETTING and isinstance(value, str) else value
            value = fill_in({name: value}, written.where, {}, allowed)[name]
            filled.set(name, value, written.keys[name], written.lines.get(name))
    return renamed(filled, problems)  # a variable's value may be an old spelling


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
    today = WrittenSettings(written.file, notes=written.notes)
    for old, value in written.values.items():
        name = ALIASES.get(old, old)
        if old in INVERTED and (turned := _inverted(value)) is not None:
            name, value = INVERTED[old], turned
        if name in today.values:
            what = f"{written.where}: `{old}={shown(value)}` sets `{name}` a second time"
            problems.add(ErrorAndHint(what, "remove one of the two"), name)
            continue
        spellings: Mapping[str, str] = SPELLINGS.get(name, {})
        value = spellings.get(value, value) if isinstance(value, str) else value
        today.set(name, value, written.keys[old], written.lines.get(old))
    return today


def _inverted(value: Any) -> bool | None:
    try:
        return not values.flag(value)
    except ValueError:
        return None
