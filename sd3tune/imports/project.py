"""Writes an imported configuration as files of sd3tune, and says what is still to be done."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config import config as our_config
from sd3tune.config.datasets.listing import read_datasets
from sd3tune.config.problems import refused
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError, DiskError, ErrorAndHint
from sd3tune.filesystem import drafts
from sd3tune.imports.translation import Translation, Unmapped

CONFIG, DATASETS = "config/config.json", "config/multidatabackend.json"
PROMPTS = "config/user_prompt_library.json"
CAPTIONS = {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True,
            "cache_dir": "cache/text"}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """files: what was written, or would be. still: problems that the user has to solve."""

    translation: Translation
    files: Mapping[str, Any]
    still: tuple[ErrorAndHint, ...] = ()


def files_of(t: Translation) -> dict[str, Any]:
    """The files of a translation by their paths below the project."""
    _remove_refused(t)
    config = {"model_family": "sd3", **t.config, "data_backend_config": DATASETS}
    datasets = [_ordered(d) for d in t.datasets]
    files: dict[str, Any] = {CONFIG: config, DATASETS: [*datasets, CAPTIONS]}
    if t.prompts:
        files[PROMPTS] = t.prompts
        config["user_prompt_library"] = PROMPTS
    return files


def _ordered(dataset: Mapping[str, Any]) -> dict[str, Any]:
    caches = {} if dataset.get("dataset_type") else {"cache_dir_vae": "cache/vae/{id}"}
    return {k: v for k, v in dataset.items() if v is not None} | caches


def _remove_refused(t: Translation) -> None:
    """A value that our setting does not take stays out of the file, with the reason."""
    for name, value in list(t.config.items()):
        if value is None:
            t.config.pop(name)
        elif (why := refused(AllSettings, name, value)) is not None:
            t.config.pop(name)
            theirs = next((m.theirs for m in t.mapped if m.ours == name), name)
            t.mapped[:] = [m for m in t.mapped if m.ours != name]
            t.chosen[:] = [c for c in t.chosen if c.ours != name]
            t.unmapped.append(Unmapped(theirs, value, f"{name} {why}"))


def write(t: Translation, folder: Path) -> Imported:
    """Writes the files below a folder, and reads them again as `plan` will. Raises ConfigError
    where one of them exists, and DiskError."""
    files = files_of(t)
    for name in files:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise ConfigError(
                f"`{folder / name}` exists and is not overwritten",
                hint="name another folder with -o, or move that file away",
            )
    for name, content in files.items():
        data = json.dumps(content, indent=2, ensure_ascii=False)
        try:
            drafts.write(folder / name, (data + "\n").encode("utf-8", "backslashreplace"))
        except OSError as e:
            raise DiskError(
                f"`{folder / name}` cannot be written: {e.strerror or e}",
                hint="name another folder with -o",
            ) from None
    return Imported(t, files, problems_of(folder))


def problems_of(folder: Path) -> tuple[ErrorAndHint, ...]:
    """What `plan` would refuse in the files of a folder before it looks at weights."""
    try:
        reading = our_config.read(folder / CONFIG)
    except ConfigError as e:
        return e.problems
    found = list(reading.problems)
    settings = reading.settings
    try:
        _, problems = read_datasets(settings.data_backend_config, settings, reading.wrong)
    except ConfigError as e:
        problems = e.problems
    return (*found, *problems)
