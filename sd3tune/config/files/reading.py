"""Reading what users write: JSON files, and `key=value` words. Syntax only, no meaning.

Every problem names the file and, for JSON, line and column.
"""

import json
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.files.placeholders import looks_secret
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.problems import COMMAND_LINE, Problems, shown, sound
from sd3tune.errors import ConfigError, ErrorAndHint
from sd3tune.filesystem import opening

VALUE = re.compile(r'("([^"]*)"\s*:\s*")(?:[^"\\]|\\.)*"?')  # a key with a text
COMMENTS = ("_", "#", "//")  # how keys of JSON begin that are remarks
EXAMPLES = (
    "`sd3tune config example` writes an example of every file, `sd3tune demo DIR` a whole run"
)
JSON_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false"}


def read_text(path: Path, what: str) -> str:
    """The text of a file that is not empty. what: what it should be, as "configuration file".
    Raises ConfigError."""
    try:
        text = opening.text(path, "utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"no such {what}: `{path}`",
            hint=EXAMPLES,
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"`{path}` is a folder, a {what} is needed", hint=f"give the file inside `{path}`"
        ) from None
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"`{path}` is not UTF-8 at byte {e.start}", hint="save it as UTF-8"
        ) from None
    except OSError as e:
        raise ConfigError(
            f"`{path}` cannot be read: {e.strerror or e}", hint="check the file and its permissions"
        ) from None
    if not text.strip():
        raise ConfigError(f"`{path}` is empty", hint=EXAMPLES)
    return text


def read_json(path: Path, kind: type, what: str, problems: Problems | None = None) -> Any:
    """The document at `path`, which must be a `kind` (dict or list). Raises ConfigError.

    problems: get the keys that an object has twice, of which the last holds; raised without.
    """
    text = read_text(path, what)
    repeated: list[str] = []
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, repeated))
    except json.JSONDecodeError as e:
        line = " ".join(text.split("\n")[e.lineno - 1].split())
        raise ConfigError(
            f"`{path}:{e.lineno}:{e.colno}` is not JSON: {e.msg}, at `{without_values(line)[:60]}`",
            hint="JSON has double quotes, no comments, and no comma after the last entry",
        ) from None
    except ValueError:  # Python's limit on the digits of a number
        raise ConfigError(f"`{path}` holds a number that is too long", hint="shorten it") from None
    except RecursionError:
        raise ConfigError(f"`{path}` is nested too deeply", hint="flatten it") from None
    if repeated:
        twice = [f"`{path}` sets `{shown(name)}` twice" for name in dict.fromkeys(repeated)]
        errors = [ErrorAndHint(message, "remove one of the two") for message in twice]
        if problems is None:
            raise ConfigError.of(errors)
        for name, error in zip(dict.fromkeys(repeated), errors, strict=True):
            problems.add(error, _plain(name))
    if not isinstance(data, kind):
        held = JSON_NAMES.get(type(data), "a number or null")
        wanted = "an object { }" if kind is dict else "a list [ ]"
        raise ConfigError(
            f"`{path}` must hold {wanted}, it holds {held}",
            hint=EXAMPLES,
        )
    return data


def without_values(line: str) -> str:
    """A line of JSON without the text behind a key that a secret goes with."""
    return VALUE.sub(lambda m: m[1] + "…" if looks_secret(m[2]) else m[0], line)


def _object(pairs: list[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    """repeated: gets the keys that the object has twice."""
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            repeated.append(name)
        seen[name] = value
    return seen


def without_dashes(
    data: Mapping[str, Any],
    path: Path,
    problems: Problems,
    lines: Mapping[str, int] | None = None,
) -> WrittenSettings:
    """Keys may be written `key` or `--key`; both at once is a problem. Keys that begin with `_`,
    `#` or `//` are comments. lines: of each key in the file, where known."""
    written = WrittenSettings(str(path))
    for key, value in data.items():
        name = _plain(key)
        if key.startswith(COMMENTS):
            continue
        if not name.isidentifier():
            problems.add(
                ErrorAndHint(
                    f"`{path}`: `{shown(key)}` is not the name of a setting",
                    "names are letters, digits and underscores; a key that begins with _ is a "
                    "comment",
                ),
                name,
            )
        elif name in written.values:
            what = f"`{path}` sets `{name}` twice, with and without dashes"
            problems.add(ErrorAndHint(what, "remove one of the two"), name)
        else:
            written.set(name, value, key, (lines or {}).get(key))
    return written


def _plain(key: str) -> str:
    return key.removeprefix("--").replace("-", "_")


def absolute_path(text: str, folder: Path, where: str, name: str) -> Path:
    """`text` from `folder` on; `~` is the home folder. Raises ConfigError for a text that cannot
    be a path."""
    try:
        path = (folder / Path(text).expanduser()).absolute()
    except RuntimeError:
        raise ConfigError(
            f"{where}: `{name}={shown(text)}`: no such home folder", hint="write the path in full"
        ) from None
    if "\0" in text or len(str(path)) > 4000 or any(len(os.fsencode(p)) > 255 for p in path.parts):
        raise ConfigError(
            f"{where}: `{name}={shown(text)}` cannot be a path".replace("\0", "?"),
            hint="each part of a path takes 1 to 255 bytes, without null characters",
        )
    return path


def read_words(
    words: Iterable[str], problems: Problems, texts: Container[str] = ()
) -> WrittenSettings:
    """`key=value` and `--key=value` words of a command line; the last one of a name holds."""
    written = WrittenSettings(COMMAND_LINE)
    for word in words:
        with problems.collecting(_plain(word.partition("=")[0])):
            add_word(written, word, texts)
    return written


def add_word(
    written: WrittenSettings,
    word: str,
    texts: Container[str],
    key: str | None = None,
    line: int | None = None,
) -> None:
    """Adds the setting of one `key=value` word. A value that reads as JSON is JSON, unless its name
    is one of `texts`: a revision `7e10` is not a number. Raises ConfigError.

    key: as the user wrote it, where that is not what the word begins with. line: of the file.
    """
    first, equals, text = word.partition("=")
    name = _plain(first)
    sound(word, written.where)
    if not equals or not name.isidentifier():
        raise ConfigError(
            f"`{shown(word)}` is not KEY=VALUE", hint="write settings as learning_rate=1e-4"
        )
    value = literal(text)
    kept = name not in texts or value is None or isinstance(value, str)
    written.set(name, value if kept else text, key or first, line)


def literal(text: str) -> Any:
    """The JSON value of a text, or the text itself where it is not JSON."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def project_folder(config: Path) -> Path:
    """Where relative paths of a configuration file start: the parent of the `config` folder it
    lies in (at any depth), or the working directory."""
    for folder in config.absolute().parents:
        if folder.name == "config":
            return folder.parent
    return Path.cwd()
