"""A configuration in another format, or in another folder: the same settings under today's names.

Placeholders such as `{env:NAME}` stay as they are; what a config.env took from the environment is
written out. What asks for nothing is left out, and so are comments.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune.config.config import (
    MODELS,
    PATHS,
    TEXTS,
    Reading,
    absolute,
    left_open,
)
from sd3tune.config.files import settings_file
from sd3tune.config.files.reading import absolute_path, project_folder
from sd3tune.config.problems import COMMAND_LINE
from sd3tune.config.settings.all_settings import AllSettings

LOCAL = (*PATHS, *MODELS, "resume_from_checkpoint")
FROM_FOLDER = {
    "data_backend_config": "multidatabackend.json",
    "lycoris_config": "lycoris_config.json",
}


def converted(
    path: Path, overrides: Sequence[str], environ: Mapping[str, str], reading: Reading, target: Path
) -> dict[str, Any]:
    """The settings as a file at `target` says them. reading: what `read` made of the same path,
    words and environ, without problems. Paths become absolute where `target` belongs to another
    project than the file."""
    path = settings_file.find(path)
    found = settings_file.FoundProblems()
    layers = settings_file.read_layers(path, overrides, environ, None, TEXTS, found)
    files = layers.merged.values
    typed = layers.each[-1].values if layers.file != COMMAND_LINE else files
    here, there = project_folder(path), project_folder(target)
    settings = {}
    for name, value in files.items():
        if name not in AllSettings.model_fields or left_open(name, value):
            continue
        base = Path.cwd() if name in typed else here
        settings[name] = value if base == there else _moved(name, value, base)
    if path.absolute().parent != target.absolute().parent:
        for name in FROM_FOLDER:
            if name not in settings and (held := getattr(reading.settings, name)) is not None:
                settings[name] = str(held)
    return settings


def _moved(name: str, value: Any, base: Path) -> Any:
    """A value that names a path from `base` on, absolute."""
    if not isinstance(value, str) or "{env:" in value:
        return value
    if name in LOCAL:
        return absolute(name, value, base, COMMAND_LINE)
    if name == "webhook_config" and not value.lstrip().startswith(("{", "[")):
        return str(absolute_path(value, base, COMMAND_LINE, name))
    return value
