"""The scale of an adapter's updates where metadata declares it, as diffusers and peft do: rank,
alpha, patterns of module names, rsLoRA.

Other programs store a tensor `.alpha` for each module. A file that states neither means alpha =
rank. No torch here.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from sd3tune.errors import ModelError
from sd3tune.filesystem import opening
from sd3tune.filesystem.safetensors_header import Header

LOG = logging.getLogger(__name__)
KEY = "lora_adapter_metadata"  # diffusers' loaders/lora_base.py
BESIDE = "adapter_config.json"  # peft's
MAX_ALPHA = 1e6  # people write 1 to 1024
PATTERN = re.compile(r"[\w.\\^$|\[\]*+?-]{1,200}")
MOST_PATTERNS, MOST_REPETITIONS = 2000, 3


@dataclass(frozen=True)
class DeclaredScale:
    """peft's LoraConfig as far as it changes the scale."""

    alpha: float | None = None  # None: alpha = rank
    patterns: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    rslora: bool = False

    def of(self, module: str, rank: int) -> float:
        """What the module's update is multiplied by. peft's rules: patterns match the end of a
        name, the first one wins; rsLoRA divides by the root of the rank (Kalajdzievski 2023)."""
        matching = (a for p, a in self.patterns.items() if p.match(module))
        alpha = next(matching, self.alpha)
        if alpha is None:
            alpha = rank
        return alpha / (sqrt(rank) if self.rslora else rank)


def declared(path: Path, metadata: Mapping[str, str]) -> DeclaredScale | None:
    """What the file's metadata, or peft's adapter_config.json beside it, declares; None: nothing.
    Raises ModelError when it cannot be understood."""
    beside = path.parent / BESIDE
    if KEY in metadata:
        data = _object(metadata[KEY], f"`{path}`: its metadata `{KEY}`")
        data = {k.removeprefix("transformer."): v for k, v in data.items()}
    elif os.path.lexists(beside) and path.name.startswith("adapter_model"):
        data = _object(_beside(beside), f"`{beside}`")
    else:
        return None
    LOG.debug(f"{path}: alpha from {KEY if KEY in metadata else beside}")
    try:
        patterns = data.get("alpha_pattern") or {}
        if len(patterns) > MOST_PATTERNS:
            raise ValueError
        alpha = data.get("lora_alpha")
        return DeclaredScale(
            None if alpha is None else _number(alpha),
            {_pattern(k): _number(v) for k, v in patterns.items()},
            bool(data.get("use_rslora")),
        )
    except (AttributeError, TypeError, ValueError):
        raise _unreadable(f"`{path}`: its alpha") from None


def _number(value: object) -> float:
    """Raises ValueError for what cannot be an alpha."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not 0 < abs(value) < MAX_ALPHA:  # NaN neither
        raise ValueError
    return float(value)


def _pattern(text: str) -> re.Pattern[str]:
    """As peft reads it, a regular expression for the end of a name. Raises ValueError for one that
    could take for ever (groups, many repetitions), which no program writes."""
    if PATTERN.fullmatch(text) is None or sum(map(text.count, "*+?")) > MOST_REPETITIONS:
        raise ValueError
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except re.error:
        raise ValueError from None


def _beside(path: Path) -> str:
    try:
        return opening.text(path)
    except (OSError, ValueError):
        raise _unreadable(f"`{path}`") from None


def is_unknown(prefix: str, has_alpha: bool, header: Header) -> bool:
    """Whether nothing says what alpha is: in a state dict without prefix, as a checkpoint holds it,
    where only the run knows. In every other dialect a file without alpha means alpha = rank."""
    return prefix == "" and not has_alpha and declared(header.path, header.metadata) is None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = opening.parsed(text)
    except ValueError:
        raise _unreadable(where) from None
    if not isinstance(data, dict):
        raise _unreadable(where)
    return data


def _unreadable(where: str) -> ModelError:
    return ModelError(f"{where} cannot be understood", hint="write the adapter file again")
