"""The folders that a dataset may read: its own folder and its allowed_roots."""

import os
from collections.abc import Sequence
from pathlib import Path


class Roots:
    """A file counts as inside if its real path (links and `..` resolved) is inside."""

    def __init__(self, root: str, allowed: Sequence[Path]) -> None:
        self.root = root
        self._real = (os.path.realpath(root), *(os.path.realpath(folder) for folder in allowed))
        self._folders: dict[str, bool] = {}  # folder -> whether it is inside

    def hold(self, path: str) -> bool:
        """Whether the file at `path` is inside."""
        if self.hold_folder(os.path.dirname(path)) and not os.path.islink(path):
            return True
        return self.lie_around(os.path.realpath(path))

    def hold_folder(self, folder: str) -> bool:
        """Whether a folder is inside. The result is remembered."""
        inside = self._folders.get(folder)
        if inside is None:
            inside = self._folders[folder] = self.lie_around(os.path.realpath(folder))
        return inside

    def lie_around(self, real: str) -> bool:
        """Whether `real`, a path without links, is inside."""
        return any(real == r or real.startswith(r.rstrip(os.sep) + os.sep) for r in self._real)

    def refusal(self, what: str) -> str:
        """The reason to show for a file that is not inside."""
        return f"{what} leaves `{self.root}`; allowed_roots can name other folders"
