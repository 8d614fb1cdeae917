"""The paths in a datasets file: which settings hold them, and where relative ones start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.files.reading import absolute_path, project_folder
from sd3tune.config.problems import Problems
from sd3tune.errors import ConfigError

FOLDERS = ("instance_data_dir", "cache_dir_vae", "cache_dir", "csv_cache_dir")
TABLES = ("csv", "parquet")
PATHS = (*FOLDERS, "csv_file", "csv.path", "parquet.path", "caption_filter_list", "allowed_roots")


def make_absolute(
    values: Mapping[str, Any], path: Path, where: str, problems: Problems
) -> dict[str, Any]:
    """The keys of a dataset with absolute paths. path: the datasets file."""
    made_absolute = dict(values)
    for key in (*FOLDERS, *TABLES, "allowed_roots", "caption_filter_list", "dataset_name"):
        if key in values:
            with problems.collecting(key):
                made_absolute[key] = _absolute(key, values[key], project_folder(path), where)
    return made_absolute


def _absolute(key: str, value: Any, folder: Path, where: str) -> Any:
    """Values of another type are left to the types to refuse. Raises ConfigError."""

    def absolute(text: Any, name: str = key) -> Any:
        return str(absolute_path(text, folder, where, name)) if isinstance(text, str) else text

    if key in TABLES and isinstance(value, dict) and "path" in value:
        return value | {"path": absolute(value["path"], f"{key}.path")}
    if key == "allowed_roots" and isinstance(value, list):
        return [absolute(v) for v in value]
    if key == "caption_filter_list" and isinstance(value, str):
        return Path(absolute(value))
    if key == "dataset_name" and isinstance(value, str) and value:
        local = absolute_path(value, folder, where, key)
        named = value.startswith((".", "/", "~")) or local.exists()
        return str(local) if named else value
    return absolute(value) if key in FOLDERS else value


def folders_exist(folders: Mapping[str, Path], path: Path) -> None:
    """Raises ConfigError naming every instance_data_dir that is not there. folders: by the id of
    their dataset."""
    missing = {name: folder for name, folder in folders.items() if not folder.is_dir()}
    if missing:
        listed = ", ".join(f"`{folder}` of dataset `{name}`" for name, folder in missing.items())
        raise ConfigError(
            f"`{path}`: instance_data_dir is not a folder: {listed}",
            hint=f"relative paths start at `{project_folder(path)}`",
        )
