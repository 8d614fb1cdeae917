"""`sd3tune demo DIR`: a model, captioned pictures and both configuration files, ready to train."""

import json
import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.tables.architectures import ARCHITECTURES

PAINTER = "painter"  # the model that paints: what the demo teaches a new shape
MODELS = tuple(ARCHITECTURES)  # random weights, for tests of structure
MARK = ".sd3tune-demo"
FOLDERS = ("models", "photos", "pictures", "config")


@dataclass(frozen=True)
class WrittenDemo:
    paths: tuple[Path, ...]
    next_command: str


def write(folder: Path, *, model: str = PAINTER, force: bool = False) -> WrittenDemo:
    """Fills `folder`. model: the painter, or one of MODELS. An older demo there is kept unless
    `force`; anything else is refused.

    Raises ConfigError, and DataError when the photographs' package is missing.
    """
    _check(folder, force)
    kind = import_module(f"sd3tune.demo.{'concept' if model == PAINTER else 'structure'}")
    paths = list(kind.write(folder))
    for file, content in kind.files(model).items():
        path = folder / "config" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        paths.append(path)
    (folder / MARK).write_text("written by `sd3tune demo`\n", encoding="utf-8")
    return WrittenDemo(tuple(paths), f"sd3tune train {folder}/config/config.json")


def _check(folder: Path, force: bool) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(
            f"`{folder}` is not a folder", hint="name a folder that does not exist yet"
        )
    if not opening.has_utf8_name(folder):
        raise ConfigError(
            f"`{folder}` is not UTF-8, and the libraries that write models take no other names",
            hint="choose another name",
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MARK).exists():
        raise ConfigError(
            f"`{folder}` is not empty and no demo", hint="name a folder that does not exist yet"
        )
    if not force:
        raise ConfigError(
            f"`{folder}` already holds a demo",
            hint=f"`sd3tune train {folder}/config/config.json` trains it; --force writes it again",
        )
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
