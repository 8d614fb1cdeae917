"""The prompts of validation pictures: the user's library, then `validation_prompt`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.config.files import read_json
from sd3tune.config.settings import Config
from sd3tune.errors import ConfigError

FILE_NAME = re.compile(r"[\w][\w .-]*")


@dataclass(frozen=True)
class Prompt:
    shortname: str  # names the picture's file
    text: str


def load_prompts(config: Config) -> tuple[Prompt, ...]:
    """In the order they are drawn; empty when nothing is asked for. Raises ConfigError."""
    if config.validation_disable:
        return ()
    found = []
    if (path := config.user_prompt_library) is not None:
        for name, entry in read_json(path, dict, "prompt library").items():
            if not FILE_NAME.fullmatch(name):
                raise ConfigError(
                    f"`{path}`: shortname `{name}` cannot be part of a file name",
                    hint="use letters, digits, spaces, dots, dashes and underscores",
                )
            found.append(Prompt(name, _text(entry, name, str(path))))
    if config.validation_prompt:
        found.append(Prompt("validation", config.validation_prompt))
    return tuple(found)


def _text(entry: Any, name: str, path: str) -> str:
    if isinstance(entry, str) and entry.strip():
        return entry
    if isinstance(entry, Mapping):
        for key in ("prompt", "caption", "tags"):
            if isinstance(entry.get(key), str) and entry[key].strip():
                return str(entry[key])
    raise ConfigError(
        f"`{path}`: entry `{name}` holds no prompt",
        hint='write "shortname": "prompt" or "shortname": {"prompt": "…"}',
    )
