"""Sizes and digests of files that were read before, stored with the files' stamps.

This is only an optimisation: an entry is valid while its stamp equals the file's, and losing all
entries costs reading the files again. They are stored as SQLite beside the latents, written
atomically, so a killed run leaves the old or the new file; equal entries give equal bytes.
"""

import os
import sqlite3
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from sd3tune.data import sqlite_files
from sd3tune.errors import DataError
from sd3tune.filesystem import cachedir, disk

Key = tuple[bytes, bytes]  # dataset, name

FILE, INDEX = "files.sqlite", "index.sqlite"  # INDEX: the index of the cache in the same folder
SCHEMA = """
create table files (dataset blob, name blob, stamp text, width integer, height integer,
                    digest blob, primary key (dataset, name)) without rowid
"""


@dataclass(frozen=True, slots=True)
class Known:
    stamp: str
    width: int
    height: int
    digest: bytes | None  # of the content; None: only the header was read


class KnownFiles:
    """The files of one dataset."""

    def __init__(self, folder: Path, dataset: str) -> None:
        self.path = folder / FILE
        self.dataset = dataset
        self.files: dict[str, Known] = {}
        self._written = time.monotonic()
        for blob, known in _rows(self.path).items():
            if blob[0] == dataset.encode():
                self.files[os.fsdecode(blob[1])] = known

    def __getitem__(self, name: str) -> Known:
        return self.files[name]

    def get(self, name: str, stamp: str) -> Known | None:
        known = self.files.get(name)
        return known if known is not None and known.stamp == stamp else None

    def write_now_and_then(self, seconds: float) -> None:
        if time.monotonic() - self._written >= seconds:
            self.write()

    def write(self) -> None:
        """Writes the file; rows of other datasets stay. Raises DataError."""
        self._written = time.monotonic()
        me = self.dataset.encode()
        if not self._replaceable():
            raise DataError(
                f"`{self.path}` is not a file of sd3tune",
                hint="move it away, or set cache_dir_vae to another folder",
            )
        try:
            with sqlite_files.database(self.path) as db:
                if not os.path.lexists(self.path.with_name(INDEX)):
                    cachedir.mark(
                        self.path.parent
                    )  # else whoever fills the cache looks whose it is
                found = {key: known for key, known in _rows(self.path).items() if key[0] != me}
                found |= {(me, os.fsencode(name)): known for name, known in self.files.items()}
                db.execute(SCHEMA)
                db.executemany(
                    "insert into files values (?, ?, ?, ?, ?, ?)",
                    ((*key, *astuple(known)) for key, known in sorted(found.items(), key=_first)),
                )
        except (OSError, sqlite3.Error) as e:
            why, remedy = disk.reason(e)
            hint = f"{remedy}; cache_dir_vae sets the folder"
            raise DataError(f"cannot write `{self.path}`: {why}", hint=hint) from None

    def _replaceable(self) -> bool:
        """Whether the file may be replaced without loss for another program: it is missing, or
        sd3tune wrote it, or its folder has sd3tune's mark."""
        missing = not os.path.lexists(self.path)
        return (
            missing
            or sqlite_files.is_ours(self.path, (SCHEMA,))
            or cachedir.is_marked(self.path.parent)
        )


def _first(item: tuple[Key, Known]) -> Key:
    return item[0]


def _rows(path: Path) -> dict[Key, Known]:
    found: Any = sqlite_files.rows(path, (SCHEMA,), "select * from files")
    return {(dataset, name): Known(*rest) for dataset, name, *rest in found
            if _sound(dataset, name, *rest)}  # fmt: skip


def _sound(*row: object) -> bool:
    """Whether a row has the right types: SQLite accepts any type in any column."""
    kinds = (bytes, bytes, str, int, int, bytes | None)
    return len(row) == len(kinds) and all(map(isinstance, row, kinds))
