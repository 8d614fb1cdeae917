"""The prompts of a drawing command: words of the command line, and files of prompts."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.config.files.reading import read_json, read_text
from sd3tune.config.problems import sound
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError

MOST_PROMPTS = 10_000
LONGEST_NAME = 40  # characters of a file's name that are taken from a prompt


def prompts_of(words: Sequence[str], files: Sequence[Path]) -> list[Prompt]:
    """Every prompt with a name for its files, each name once. files: `.txt` with a prompt in each
    line, or a JSON library as user_prompt_library has it. Raises ConfigError."""
    found = [Prompt("", sound(word, "the command line")) for word in words]
    for path in files:
        found += _of_json(path) if path.suffix.lower() == ".json" else _of_text(path)
    if not found:
        raise ConfigError(
            "nothing to draw: there is no prompt",
            hint='give one, `sd3tune sample output "a tabby cat"`, or a file: --prompts FILE',
        )
    if len(found) > MOST_PROMPTS:
        raise ConfigError(f"{len(found):,} prompts are too many", hint=f"at most {MOST_PROMPTS:,}")
    return _named(found)


def _of_json(path: Path) -> list[Prompt]:
    """A library by shortname, or a list of prompts."""
    if read_text(path, "file of prompts").lstrip().startswith("["):
        entries = read_json(path, list, "file of prompts")
        if odd := next((e for e in entries if not isinstance(e, str) or not e.strip()), None):
            raise ConfigError(
                f"`{path}`: {str(odd)[:60]!r} is not a prompt", hint='write ["a cat", "a dog"]'
            )
        return [Prompt("", sound(entry, f"`{path}`")) for entry in entries]
    others: dict[str, Any] = {"validation_disable_unconditional": True}
    found = load_prompts(AllSettings.model_construct(user_prompt_library=path, **others))
    if own := next((p for p in found if p.strength not in (None, 1)), None):
        raise ConfigError(
            f"`{path}`: entry `{own.shortname}`: adapter_strength is for validations of a run",
            hint="leave it out, and give the strength to all pictures with --strength",
        )
    return list(found)


def _of_text(path: Path) -> list[Prompt]:
    """One prompt in each line; empty lines and lines that begin with # are left out."""
    lines = (line.strip() for line in read_text(path, "file of prompts").splitlines())
    found = [Prompt("", sound(x, f"`{path}`")) for x in lines if x and not x.startswith("#")]
    if not found:
        raise ConfigError(
            f"`{path}` holds no prompt", hint="write one in each line; `#` begins a remark"
        )
    return found


def _named(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Names from the first words of prompts that have none; a number makes a name unique."""
    named: list[Prompt] = []
    taken: set[str] = set()
    for prompt in prompts:
        stem = prompt.shortname or _stem(prompt.text)
        name, count = stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        named.append(Prompt(name, prompt.text))
    return named


def _stem(text: str) -> str:
    """A file's name from a prompt: its first words, letters and digits of every script."""
    words = re.findall(r"\w+", text)
    stem = ""
    for word in words:
        if stem and len(stem) + len(word) >= LONGEST_NAME:
            break
        stem += f"-{word}" if stem else word[:LONGEST_NAME]
    return stem or "picture"
