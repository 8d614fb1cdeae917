"""The trainers whose configurations are read: one row each.

A new trainer is a module with `recognised` and `translate`, and a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.imports import ai_toolkit, comfyui_node, diffusers_script, kohya, onetrainer
from sd3tune.imports.foreign_file import Document, read
from sd3tune.imports.metadata import adapter_translation, is_adapter_file
from sd3tune.imports.translation import Translation


@dataclass(frozen=True)
class Trainer:
    """recognised: whether a document is one of its files. translate: what becomes of it."""

    name: str
    recognised: Callable[[Document], bool]
    translate: Callable[[Document], Translation]


TRAINERS = tuple(
    Trainer(module.NAME, module.recognised, module.translate)
    for module in (comfyui_node, ai_toolkit, onetrainer, diffusers_script, kohya)
)
# Names that no other trainer has.
OURS = {"data_backend_config", "model_family", "model_flavour", "flow_schedule_shift"}
LISTED = ", ".join(sorted(trainer.name for trainer in TRAINERS))


def translated(path: Path) -> Translation:
    """What a file of another trainer becomes. Raises ConfigError, and ModelError for an adapter
    that cannot be read."""
    if is_adapter_file(path):
        return adapter_translation(path)
    document = read(path)
    if is_ours(document.data):
        raise ConfigError(
            f"`{path}` is a configuration of sd3tune or SimpleTuner already",
            hint=f"`sd3tune plan {path}` reads it as it is",
        )
    for trainer in TRAINERS:
        if trainer.recognised(document):
            return trainer.translate(document)
    raise ConfigError(
        f"`{path}` is {_kind(document)}, but not a configuration of a trainer that sd3tune knows",
        hint=f"known are {LISTED}, and adapters (.safetensors)",
    )


def is_ours(data: Any) -> bool:
    """Whether a document is a configuration of sd3tune or SimpleTuner."""
    names = {str(name).removeprefix("--") for name in data} if isinstance(data, dict) else set()
    return bool(names & OURS) and "training_method" not in names


def _kind(document: Document) -> str:
    names = {"json": "JSON", "toml": "TOML", "yaml": "YAML", "command": "a command line"}
    return names[document.syntax]
