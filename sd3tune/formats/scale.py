"""The scale of an adapter's updates where the tensors do not state it: rank, alpha, patterns of
module names, rsLoRA.

Most programs store a tensor `.alpha` for each module. Else the scale is in a LoraConfig (in the
metadata under `lora_adapter_metadata`, as diffusers writes it; in peft's adapter_config.json), or
as one number in the metadata. A file that states nothing means alpha = rank. No torch here.
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
from sd3tune.formats.key_names import without_wrappers

LOG = logging.getLogger(__name__)
KEY = "lora_adapter_metadata"  # diffusers' loaders/lora_base.py
BESIDE = "adapter_config.json"  # peft's
MAX_ALPHA = 1e6  # people write 1 to 1024
# Other keys of a header: a LoraConfig as JSON, or one alpha for all modules.
CONFIGS = ("adapter_config", "peft_config", "lora_config")
ALPHAS = ("lora_alpha", "alpha", "network_alpha")  # their names for alpha, peft's first
NUMBERS = ("ss_network_alpha", "lora_alpha", "network_alpha", "alpha")
# Initialisations that move a part of the base weights into the adapter: alone it means nothing.
SHIFTING = ("pissa", "olora", "loftq", "corda", "lora_ga")
PATTERN = re.compile(r"[\w.\\^$|\[\]*+?-]{1,200}")
MOST_PATTERNS, MOST_REPETITIONS = 2000, 3


@dataclass(frozen=True)
class DeclaredScale:
    """peft's LoraConfig as far as it changes the scale. source: where it is declared."""

    alpha: float | None = None  # None: alpha = rank
    patterns: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    rslora: bool = False
    source: str = KEY

    @property
    def states_alpha(self) -> bool:
        """Whether it changes anything: a configuration of the text encoders alone does not."""
        return self.alpha is not None or bool(self.patterns) or self.rslora

    def of(self, module: str, rank: int) -> float:
        """What the module's update is multiplied by. peft's rules: patterns match the end of a
        name, the first one wins; rsLoRA divides by the root of the rank (Kalajdzievski 2023)."""
        matching = (a for p, a in self.patterns.items() if p.match(module))
        alpha = next(matching, self.alpha)
        if alpha is None:
            alpha = rank
        return alpha / (sqrt(rank) if self.rslora else rank)


def declared(
    path: Path, metadata: Mapping[str, str], *, needed: bool = True
) -> DeclaredScale | None:
    """What the file's metadata, or peft's adapter_config.json beside it, declares; None: nothing.
    needed: not every module has a tensor with its alpha, so that a number in the metadata counts.
    Raises ModelError when it cannot be understood, and for a configuration of peft whose tensors
    mean something else than a LoRA of the released weights."""
    beside = path.parent / BESIDE
    if KEY in metadata:
        data = _object(metadata[KEY], f"`{path}`: its metadata `{KEY}`")
        data = {k.removeprefix("transformer."): v for k, v in data.items()}
        if (found := _lora_config(path, data, KEY)).states_alpha:
            return found
    if os.path.lexists(beside) and path.name.startswith("adapter_model"):
        data = _object(_beside(beside), f"`{beside}`")
        _refuse_others(beside, data)
        if (found := _lora_config(path, data, BESIDE)).states_alpha:
            return found
    for key in (k for k in CONFIGS if k in metadata):
        data = _object(metadata[key], f"`{path}`: its metadata `{key}`")
        _refuse_others(path, data)
        if (found := _lora_config(path, data, key)).states_alpha:
            return found
    return _one_number(path, metadata) if needed else None


def _lora_config(path: Path, data: Mapping[str, Any], source: str) -> DeclaredScale:
    LOG.debug(f"{path}: alpha from {source}")
    try:
        patterns = data.get("alpha_pattern") or {}
        if len(patterns) > MOST_PATTERNS:
            raise ValueError
        alpha = next((data[name] for name in ALPHAS if data.get(name) is not None), None)
        return DeclaredScale(
            None if alpha is None else _number(alpha),
            {_pattern(without_wrappers(k)): _number(v) for k, v in patterns.items()},
            bool(data.get("use_rslora")),
            source,
        )
    except (AttributeError, TypeError, ValueError):
        raise _unreadable(f"`{path}`: its alpha") from None


def _refuse_others(path: Path, data: Mapping[str, Any]) -> None:
    """Raises ModelError for a configuration of another method than LoRA, or of one whose tensors
    belong to other base weights."""
    kind = data.get("peft_type", "LORA")
    if kind != "LORA":
        raise ModelError(
            f"`{path}`: `peft_type` is {kind!r:.60}; of peft's methods sd3tune reads LORA",
            hint="merge it into the model with peft's merge_and_unload",
        )
    begun = data.get("init_lora_weights", True)
    if isinstance(begun, str) and begun.lower().startswith(SHIFTING):
        raise ModelError(
            f"`{path}`: `init_lora_weights` is {begun!r:.60}, which changes the base weights too",
            hint="save it with peft's path_initial_model_for_weight_conversion, or merge it",
        )


def _one_number(path: Path, metadata: Mapping[str, str]) -> DeclaredScale | None:
    """An alpha for all modules. Words such as kohya's `None` and `Dynamic` state nothing."""
    for key in NUMBERS:
        try:
            value = float(metadata.get(key, ""))
        except ValueError:
            continue
        try:
            return DeclaredScale(_number(value), source=key)
        except ValueError:
            raise _unreadable(f"`{path}`: its metadata `{key}={value:g}`") from None
    return None


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


def assumed(source: str | None) -> str | None:
    """What a reader of the file should know of where its alpha is from; None where it is stated as
    its dialect has it. source: of DeclaredScale; None where nothing declares alpha."""
    if source is None:
        return (
            "nothing in the file states alpha: alpha = rank is assumed, as diffusers and ComfyUI do"
        )
    if source in (KEY, BESIDE):
        return None
    return f"alpha is stated by `{source}` in the metadata alone, and taken from there"


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
