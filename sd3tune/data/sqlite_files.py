"""Small SQLite files that are written atomically, and read only if sd3tune wrote them.

Anyone who can write to a shared folder can put any database there. A database whose tables are not
exactly sd3tune's counts as absent. The content of these files can be computed again.
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
    """A database that replaces `path` when the block ends without an error. Equal statements give
    equal bytes. Raises OSError and sqlite3.Error."""
    draft = path.with_suffix(".draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafts.drafted(draft, wait=True) as descriptor:
        assert descriptor is not None
        _refuse_strange(draft, descriptor)
        # In memory, because SQLite opens files by name and follows links.
        with closing(sqlite3.connect(":memory:")) as db:
            with db:
                yield db
            drafts.fill(descriptor, db.serialize())
        drafts.finish(draft, path, descriptor)


def _refuse_strange(draft: Path, descriptor: int) -> None:
    """Raises OSError unless the draft is empty, zeros or the beginning of a database, as a killed
    writer leaves it: another content belongs to another program."""
    begins = os.pread(descriptor, len(MAGIC), 0)
    if begins != MAGIC[: len(begins)] and any(begins):
        why = f"its draft `{draft.name}` is not a file of sd3tune: move that away"
        raise OSError(errno.EEXIST, why, str(draft))


def is_ours(path: Path, tables: Sequence[str]) -> bool:
    """Whether a file has exactly these tables. tables: their `create` statements."""
    return bool(_read(path, tables, "select 1"))


def rows(path: Path, tables: Sequence[str], query: str) -> list[Row]:
    """The rows of a query; none if the file is missing, damaged, or has other tables."""
    return _read(path, tables, query)


def _read(path: Path, tables: Sequence[str], query: str) -> list[Row]:
    try:
        opening.size(path)
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as db:
            # A view with the name of a table could compute for ever.
            found = db.execute("select type, sql from sqlite_master").fetchall()
            if sorted(map(_plain, found)) != sorted(_plain(("table", t)) for t in tables):
                return []
            return db.execute(query).fetchall()
    except (OSError, sqlite3.Error, ValueError):  # ValueError: a path that is not UTF-8
        return []


def _plain(entry: Row) -> tuple[str, str]:
    """A normalised statement: SQLite keeps it as written, except for its first two words."""
    kind, sql = entry
    return str(kind), " ".join(str(sql).lower().split())
