"""Where the pictures of a command go: names that are free, so that nothing is written over."""

import os
from collections.abc import Callable
from pathlib import Path

from sd3tune.errors import DiskError
from sd3tune.filesystem import disk

Name = Callable[[str, int | None, tuple[int, int] | None], Path]


def paths_of(folder: Path, format: str) -> Name:
    """Makes paths in a folder from shortname, seed and size: `cat_s42_1024x1024.png`; a number is
    added where there is such a file. Raises DiskError for a folder that cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise DiskError(f"`{folder}` is a file", hint="choose another folder with --out")
    if (found := disk.unwritable(folder)) is not None:
        raise DiskError(f"`{folder}` cannot be written: {found[0]}", hint=found[1])
    taken: set[Path] = set()

    def path(shortname: str, seed: int | None, size: tuple[int, int] | None) -> Path:
        parts = [shortname, *([] if seed is None else [f"s{seed}"])]
        parts += [] if size is None else [f"{size[0]}x{size[1]}"]
        stem, count = "_".join(parts), 1
        made = folder / f"{stem}.{format}"
        while made in taken or os.path.lexists(made):
            count += 1
            made = folder / f"{stem}-{count}.{format}"
        taken.add(made)
        return made

    return path
