"""Read access to the folder of a run that may come from a stranger.

Every component of a path is opened in its parent without following links, so nothing outside the
folder can be read, whatever links, pipes or devices lie in it. The folder itself is the user's
words: a link to it is followed.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

MAX_ENTRIES = 20_000  # of one folder; what comes after is not listed
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, order=True)
class FolderEntry:
    """A regular file or a folder; links and everything else are not listed."""

    name: str
    is_folder: bool
    size_bytes: int
    changed: float  # seconds since 1970


class RunFolder:
    """The folder of one run. It may not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def opened(self, relative: str) -> Iterator[BinaryIO]:
        """A regular file with one name, for reading. Raises OSError for anything else, and where a
        component is a link."""
        *folders, name = parts(relative)
        with self._folder(folders) as parent:
            descriptor = os.open(name, FILE, dir_fd=parent)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise OSError(errno.EINVAL, "it is not a file of the run", relative)
                yield file

    def read(self, relative: str, max_bytes: int) -> bytes:
        """The content of a file. Raises OSError, also where it is longer than `max_bytes`."""
        with self.opened(relative) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", relative)
        return data

    def entries(self, relative: str = "") -> list[FolderEntry]:
        """What a folder holds, by name; empty where it cannot be read."""
        found: list[FolderEntry] = []
        with (
            suppress(OSError, ValueError),
            self._folder(parts(relative)) as folder,
            os.scandir(folder) as listing,
        ):
            for entry in islice(listing, MAX_ENTRIES):
                with suppress(OSError):
                    if kept := _kept(entry.name, entry.stat(follow_symlinks=False)):
                        found.append(kept)
        return sorted(found)

    @contextmanager
    def _folder(self, names: list[str]) -> Iterator[int]:
        """A descriptor of the folder below the root. Raises OSError."""
        here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                below = os.open(name, FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)


def parts(relative: str) -> list[str]:
    """The components of a path below the root. Raises ValueError for one that leaves it."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative or "\\" in relative:
        raise ValueError(f"{relative!r} is not a path in the folder of the run")
    return list(path.parts)


def _kept(name: str, status: os.stat_result) -> FolderEntry | None:
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
        return None
    return FolderEntry(name, is_folder, status.st_size, status.st_mtime)
