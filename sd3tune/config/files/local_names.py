"""Whether the name of a model is a path on this disk or a repository of a hub, whether or not
anything is there. A path is never sent to the hub."""

from pathlib import Path

from sd3tune.tables.architectures import of_repository

STARTS = (".", "/", "~")


def names_a_path(text: str, folder: Path) -> bool:
    """Whether `text` names a path: it starts as paths do, has a backslash, has no slash or several,
    or its first part is a folder in `folder`, where relative paths start."""
    parts = text.split("/")
    if text.startswith(STARTS) or "\\" in text or len(parts) != 2 or not all(parts):
        return True
    return of_repository(text) is None and (folder / parts[0]).is_dir()
