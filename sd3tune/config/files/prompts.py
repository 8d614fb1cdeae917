"""The prompts of validation pictures: the empty one, the built-in ones, the user's library, then
`validation_prompt`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sd3tune.config.files.built_in_prompts import BUILT_IN_PROMPTS
from sd3tune.config.files.reading import read_json
from sd3tune.config.problems import Problems, shown, sound
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError

FILE_NAME = re.compile(r"\w[\w .-]{0,99}")
OWN, UNCONDITIONAL = "validation", "unconditional"  # shortnames
TEXTS = ("prompt", "caption", "tags")  # keys of an entry: the first one that is there counts
STRENGTH = "adapter_strength"
OTHER_MODELS = ("bbox_entities", "bbox_keyframes", "lyrics")


@dataclass(frozen=True)
class Prompt:
    shortname: str  # names the picture's file
    text: str
    strength: float | None = None  # of the adapter; None: validation_lycoris_strength


def load_prompts(config: AllSettings) -> tuple[Prompt, ...]:
    """Validation prompts in the order in which they are drawn; empty without any setting of them.
    Raises ConfigError with all problems of the library."""
    if config.validation_disable:
        return ()
    own = (Prompt(OWN, config.validation_prompt),) if config.validation_prompt else ()
    built_in = BUILT_IN_PROMPTS.items() if config.validation_prompt_library else ()
    before = [Prompt(name, text) for name, text in built_in]
    if not config.validation_disable_unconditional:
        before.insert(0, Prompt(UNCONDITIONAL, ""))
    library = _library(config, {p.shortname for p in (*before, *own)})
    prompts = (*before, *library, *own)
    return () if prompts == (Prompt(UNCONDITIONAL, ""),) else prompts


def _library(config: AllSettings, taken: set[str]) -> list[Prompt]:
    """The prompts of user_prompt_library. taken: shortnames of other prompts."""
    library: list[Prompt] = []
    if (path := config.user_prompt_library) is not None:
        problems = Problems()
        for name, entry in read_json(path, dict, "prompt library").items():
            with problems.collecting():
                prompt = _prompt(name, entry, f"`{path}`", taken)
                _refuse_strength(config, prompt, f"`{path}`")
                library.append(prompt)
        problems.raise_any()
    return library


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
    text = sound(_text(entry, name, where), f"{where}: entry `{name}`")
    if isinstance(entry, str):
        return Prompt(name, text)
    _refuse_unknown(entry, name, where)
    return Prompt(name, text, _strength(entry, name, where))


def _text(entry: Any, name: str, where: str) -> str:
    if isinstance(entry, str) and entry.strip():
        return entry
    if isinstance(entry, Mapping):
        for key in TEXTS:
            if isinstance(entry.get(key), str) and entry[key].strip():
                return str(entry[key])
    raise ConfigError(
        f"{where}: entry `{name}` has no prompt",
        hint='write "shortname": "prompt" or "shortname": {"prompt": "…"}',
    )


def _refuse_unknown(entry: Mapping[str, Any], name: str, where: str) -> None:
    known = (*TEXTS, STRENGTH)
    for key in entry:
        if key in OTHER_MODELS:
            raise ConfigError(
                f"{where}: entry `{name}`: `{key}` belongs to another model family",
                hint="leave it out",
            )
        if key not in known:
            close = get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{where}: entry `{name}`: `{shown(key)}` is not a key of a prompt",
                hint=f"did you mean `{close[0]}`?" if close else f"keys are {', '.join(known)}",
            )


def _strength(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    """Raises ConfigError for a strength that is not a number from 0."""
    value = entry.get(STRENGTH)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise ConfigError(
            f"{where}: entry `{name}`: `{STRENGTH}={shown(str(value))}` must be a number from 0",
            hint="1 is the adapter as it is trained",
        )
    return float(value)


def _refuse_strength(config: AllSettings, prompt: Prompt, where: str) -> None:
    """Raises ConfigError where the adapter cannot be scaled."""
    why = None
    if prompt.strength in (None, 1):
        return
    if config.model_type == "full":
        why = "model_type=full has no adapter"
    elif config.lora_init_type in ("pissa", "olora"):
        why = (
            f"the adapter of lora_init_type={config.lora_init_type} holds a part of the base model "
            "while it trains"
        )
    if why:
        raise ConfigError(
            f"{where}: entry `{prompt.shortname}`: `{STRENGTH}={prompt.strength:g}`: {why}",
            hint="leave it out",
        )
