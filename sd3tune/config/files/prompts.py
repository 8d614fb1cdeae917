"""The prompts of validation pictures: the user's library, then `validation_prompt`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.config.complaints import shown, sound
from sd3tune.config.config import Config
from sd3tune.config.files.reading import read_json
from sd3tune.errors import ConfigError

FILE_NAME = re.compile(r"\w[\w .-]{0,99}")


@dataclass(frozen=True)
class Prompt:
    shortname: str  # names the picture's file
    text: str


def load_prompts(config: Config) -> tuple[Prompt, ...]:
    """In the order they are drawn; empty when nothing is asked for. Raises ConfigError."""
    if config.validation_disable:
        return ()
    found = []
    taken = {"validation"} if config.validation_prompt else set()
    if (path := config.user_prompt_library) is not None:
        for name, entry in read_json(path, dict, "prompt library").items():
            if not FILE_NAME.fullmatch(name):
                raise ConfigError(
                    f"`{path}`: shortname `{shown(name)}` cannot be part of a file name",
                    hint="use letters, digits, spaces, dots, dashes and underscores, at most 100",
                )
            if name.casefold() in taken:
                raise ConfigError(
                    f"`{path}`: shortname `{name}` would write over another prompt's pictures",
                    hint="rename it; upper and lower case are the same file on some systems",
                )
            text = sound(_text(entry, name, str(path)), f"`{path}`: entry `{name}`")
            found.append(Prompt(name, text))
            taken.add(name.casefold())
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
