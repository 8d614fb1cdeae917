"""The prompts of validation pictures: the user's library, then `validation_prompt`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd3tune.config.files.reading import read_json
from sd3tune.config.problems import Problems, shown, sound
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError

FILE_NAME = re.compile(r"\w[\w .-]{0,99}")


@dataclass(frozen=True)
class Prompt:
    shortname: str  # names the picture's file
    text: str


def load_prompts(config: AllSettings) -> tuple[Prompt, ...]:
    """Validation prompts in the order in which they are drawn; empty without any setting of them.
    Raises ConfigError with all problems of the library."""
    if config.validation_disable:
        return ()
    own = Prompt("validation", config.validation_prompt) if config.validation_prompt else None
    library: list[Prompt] = []
    if (path := config.user_prompt_library) is not None:
        problems = Problems()
        taken = {own.shortname} if own else set()
        for name, entry in read_json(path, dict, "prompt library").items():
            with problems.collecting():
                library.append(_prompt(name, entry, f"`{path}`", taken))
        problems.raise_any()
    return (*library, own) if own else tuple(library)


def _prompt(name: str, entry: Any, where: str, taken: set[str]) -> Prompt:
    """One entry of the library. taken: shortnames in lower case, gets this one. Raises
    ConfigError."""
    if not FILE_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: shortname `{shown(name)}` cannot be part of a file name",
            hint="use letters, digits, spaces, dots, dashes and underscores, at most 100",
        )
    if name.casefold() in taken:
        raise ConfigError(
            f"{where}: shortname `{name}` would write over another prompt's pictures",
            hint="rename it; upper and lower case are the same file on some systems",
        )
    taken.add(name.casefold())
    return Prompt(name, sound(_text(entry, name, where), f"{where}: entry `{name}`"))


def _text(entry: Any, name: str, where: str) -> str:
    if isinstance(entry, str) and entry.strip():
        return entry
    if isinstance(entry, Mapping):
        for key in ("prompt", "caption", "tags"):
            if isinstance(entry.get(key), str) and entry[key].strip():
                return str(entry[key])
    raise ConfigError(
        f"{where}: entry `{name}` has no prompt",
        hint='write "shortname": "prompt" or "shortname": {"prompt": "…"}',
    )
