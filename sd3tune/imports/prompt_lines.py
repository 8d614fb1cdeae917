"""Lists of prompts of other trainers: text files of sd-scripts, lists of the others."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sd3tune.config.files.reading import read_text
from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.imports.translation import Mapped, Translation

MAX_PROMPTS = 100
OPTIONS = re.compile(r"\s--[a-z]{1,2}\b.*$")  # sd-scripts: --w 1024 --h 1024 --s 28 --n ugly
NEGATIVE = re.compile(r"\s--n\s+(.*?)(?=\s--[a-z]{1,2}\b|$)")


def prompt_file(t: Translation, key: str, folder: Path) -> None:
    """sd-scripts' sample_prompts: a .txt with a prompt a line, or a .json list."""
    named = t.take(key)
    if named is None:
        return
    path = folder / str(named)
    if not opening.is_regular(path):
        t.drop(key, named, "is not there: write its prompts into a user_prompt_library")
        return
    try:
        lines = _lines(path)
    except (ConfigError, ValueError, OSError):
        t.drop(key, named, "cannot be read")
        return
    add_prompts(t, key, named, (OPTIONS.sub("", line) for line in lines))
    negatives = [n[1].strip() for line in lines if (n := NEGATIVE.search(line))]
    if negatives:
        t.map(f"{key} --n", negatives[0], validation_negative_prompt=negatives[0])


def _lines(path: Path) -> list[str]:
    if path.suffix.lower() == ".json":
        data = opening.json_of(path)
        entries = data if isinstance(data, list) else []
        return [str(e.get("prompt", "")) if isinstance(e, dict) else str(e) for e in entries]
    lines = read_text(path, "list of prompts").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def add_prompts(t: Translation, key: str, value: Any, texts: Iterable[Any]) -> None:
    """Prompts into the library of ours, named prompt-1, prompt-2, …"""
    named = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    for text in named[:MAX_PROMPTS]:
        t.prompts[f"prompt-{len(t.prompts) + 1}"] = text
    if named:
        shown = value if isinstance(value, str) else f"{len(named)} prompts"
        t.config["user_prompt_library"] = "config/user_prompt_library.json"
        t.mapped.append(Mapped(key, shown, "user_prompt_library", t.config["user_prompt_library"]))
    if len(named) > MAX_PROMPTS:
        t.drop(key, len(named), f"only the first {MAX_PROMPTS} prompts are taken")


def size(t: Translation, width: Any, height: Any, names: str) -> None:
    """validation_resolution from a width and a height, rounded to 64 as SD3 needs."""
    try:
        sides = [max(64, round(float(side) / 64) * 64) for side in (width, height)]
    except (TypeError, ValueError, OverflowError):
        t.drop(names, f"{width} x {height}", "is not a size")
        return
    t.map(names, f"{width} x {height}", validation_resolution=f"{sides[0]}x{sides[1]}")
