"""Reading TOML documents. Syntax only, no meaning."""

import re
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from sd3tune.config.files.placeholders import looks_secret
from sd3tune.config.files.reading import read_text
from sd3tune.config.problems import shown
from sd3tune.errors import ConfigError

SPOT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The document at `path`; dates and times as text. what: what it should be, as "configuration
    file". Raises ConfigError, with line and column."""
    import tomllib  # not for the other formats

    text = read_text(path, what)
    try:
        return {key: _plain(value) for key, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError as e:
        spot = SPOT.search(str(e))
        lines = text.rstrip("\n").split("\n")
        number = int(spot[1]) if spot and spot[1] else len(lines)
        column = f":{spot[2]}" if spot and spot[2] else ""
        what = SPOT.sub("", str(e)).replace("Cannot overwrite a value", "a key is set twice")
        raise ConfigError(
            f"`{path}:{number}{column}` is not TOML: {what}, at "
            f"`{_line(lines[min(number, len(lines)) - 1])}`",
            hint='TOML has one key = value a line, text in "double quotes", and # for comments',
        ) from None
    except RecursionError:
        raise ConfigError(f"`{path}` is nested too deeply", hint="flatten it") from None
    except ValueError:  # Python's limit on the digits of a number
        raise ConfigError(f"`{path}` holds a number that is too long", hint="shorten it") from None


def _line(line: str) -> str:
    """A line as problems show it, without a value that may be a secret."""
    key, equals, _ = line.partition("=")
    return f"{key.strip()} = …" if equals and looks_secret(key) else shown(line.strip())[:60]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime | date | time) else value
