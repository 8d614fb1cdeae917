"""Settings as the text of a configuration file, in each format that sd3tune reads."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from sd3tune.config.files.env_file import RENAMED
from sd3tune.config.files.reading import literal

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
VARIABLES = {name: variable for variable, name in reversed(RENAMED.items())} | {
    "layer_freeze_strategy": "LAYER_FREEZE_STRATEGY"  # USE_BITFIT is a switch
}


def json_text(settings: Mapping[str, Any]) -> str:
    """config.json."""
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


def toml_text(settings: Mapping[str, Any]) -> str:
    """config.toml: a line for each setting."""
    return "".join(f"{_toml_key(k)} = {_toml(v)}\n" for k, v in settings.items() if v is not None)


def env_text(settings: Mapping[str, Any]) -> str:
    """config.env: an exported variable for each setting."""
    return "".join(
        f"export {VARIABLES.get(name, name.upper())}={shlex.quote(_env(value))}\n"
        for name, value in settings.items()
    )


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "json": json_text,
    "toml": toml_text,
    "env": env_text,
}


def _toml_key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _toml(key)


def _toml(value: Any) -> str:
    """A value in one line. null, which TOML does not have, is left out of objects."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)


def _env(value: Any) -> str:
    """A value as config.env reads it back: text is JSON where it has several lines or would be read
    as something else."""
    if isinstance(value, str) and literal(value) == value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)
