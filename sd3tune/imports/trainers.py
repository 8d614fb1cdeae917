"""The trainers whose configurations are read: one row each.

A new trainer is a module with `recognised` and `translate`, and a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
LISTED = ", ".join(sorted(trainer.name for trainer in TRAINERS))


def translated(path: Path) -> Translation:
    """What a file of another trainer becomes. Raises ConfigError, and ModelError for an adapter
    that cannot be read."""
    if is_adapter_file(path):
        return adapter_translation(path)
    document = read(path)
    for trainer in TRAINERS:
        if trainer.recognised(document):
            return trainer.translate(document)
    raise ConfigError(
        f"`{path}` is {_kind(document)}, but not a configuration of a trainer that sd3tune knows",
        hint=f"known are {LISTED}, and adapters (.safetensors)",
    )


def _kind(document: Document) -> str:
    names = {"json": "JSON", "toml": "TOML", "yaml": "YAML", "command": "a command line"}
    return names[document.syntax]
