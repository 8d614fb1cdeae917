"""Small SQLite files that are written whole and read as far as they are ours.

Whoever can write to a shared folder can put any database there: one whose tables are not exactly
those that sd3tune makes counts as absent. What these files hold can be found out again.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sd3tune.filesystem import drafts, opening

Row = tuple[object, ...]
MAGIC = b"SQLite format 3\0"


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A new SQLite file in the place of `path` when the block ends without an error. The same
    statements give the same bytes. Raises OSError and sqlite3.Error."""
    draft = path.with_suffix(".draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafts.drafted(draft, wait=True) as descriptor:
        assert descriptor is not None
        _refuse_strange(draft, descriptor)
        # In memory: SQLite opens files by name, and follows links.
        with closing(sqlite3.connect(":memory:")) as db:
            with db:
                yield db
            drafts.fill(descriptor, db.serialize())
        drafts.finish(draft, path, descriptor)


def _refuse_strange(draft: Path, descriptor: int) -> None:
    """A killed writer leaves the beginning of a database, or zeros; anything else is somebody's."""
    begins = os.pread(descriptor, len(MAGIC), 0)
    if begins != MAGIC[: len(begins)] and any(begins):
        why = f"its draft `{draft.name}` is not a file of sd3tune: move that away"
        raise OSError(errno.EEXIST, why, str(draft))


def is_ours(path: Path, tables: Sequence[str]) -> bool:
    """Whether a file has these tables and nothing else. tables: their `create` statements."""
    return bool(_read(path, tables, "select 1"))


def rows(path: Path, tables: Sequence[str], query: str) -> list[Row]:
    """Of a finished file; none when it is not there, torn, or has other tables than these."""
    return _read(path, tables, query)


def _read(path: Path, tables: Sequence[str], query: str) -> list[Row]:
    try:
        opening.size(path)
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as db:
            # A view in the place of a table could compute for ever.
            found = db.execute("select type, sql from sqlite_master").fetchall()
            if sorted(map(_plain, found)) != sorted(_plain(("table", t)) for t in tables):
                return []
            return db.execute(query).fetchall()
    except (OSError, sqlite3.Error, ValueError):  # ValueError: a path that is not UTF-8
        return []


def _plain(entry: Row) -> tuple[str, str]:
    """SQLite keeps the statement as it was written, but for its first two words."""
    kind, sql = entry
    return str(kind), " ".join(str(sql).lower().split())
