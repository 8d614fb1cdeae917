"""The paths in a datasets file: which settings hold them, and where relative ones start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune.config.datasets.storage import Stored
from sd3tune.config.files.reading import absolute_path, project_folder
from sd3tune.errors import ConfigError

FOLDERS = ("instance_data_dir", "cache_dir_vae", "cache_dir", "csv_cache_dir")
TABLES = ("csv", "parquet")
PATHS = (*FOLDERS, "csv_file", "csv.path", "parquet.path", "caption_filter_list", "allowed_roots")


def placed(values: Mapping[str, Any], path: Path, where: str) -> dict[str, Any]:
    """The settings of a dataset with absolute paths. Raises ConfigError."""

    def absolute(text: Any, key: str) -> Any:
        if not isinstance(text, str):
            return text
        return str(absolute_path(text, project_folder(path), where, key))

    found = dict(values)
    for key in FOLDERS:
        if key in found:
            found[key] = absolute(found[key], key)
    if isinstance(found.get("allowed_roots"), list):
        found["allowed_roots"] = [absolute(v, "allowed_roots") for v in found["allowed_roots"]]
    for key in TABLES:
        if isinstance(found.get(key), dict) and "path" in found[key]:
            found[key] = found[key] | {"path": absolute(found[key]["path"], f"{key}.path")}
    if isinstance(found.get("caption_filter_list"), str):
        found["caption_filter_list"] = Path(absolute(found["caption_filter_list"],
                                                     "caption_filter_list"))  # fmt: skip
    name = found.get("dataset_name")
    if isinstance(name, str) and name:
        folder = absolute_path(name, project_folder(path), where, "dataset_name")
        if name.startswith((".", "/", "~")) or folder.exists():
            found["dataset_name"] = str(folder)
    return found


def folders_exist(stored: Sequence[Stored], path: Path) -> None:
    """Raises ConfigError naming every instance_data_dir that is not there."""
    folders = [d for d in stored if d.type == "local" and d.instance_data_dir is not None]
    missing = [d for d in folders if d.instance_data_dir and not d.instance_data_dir.is_dir()]
    if missing:
        words = ", ".join(f"`{d.instance_data_dir}` of dataset `{d.id}`" for d in missing)
        raise ConfigError(
            f"`{path}`: instance_data_dir is no folder: {words}",
            hint=f"relative paths start at `{project_folder(path)}`",
        )
