"""Files that appear whole or not at all, written by one process at a time.

Writers lock the draft they write and rename it when it is done. The lock of a writer that was
killed is gone with it, and its draft is written over by the next.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def drafted(draft: Path, final: Path | None = None, *, wait: bool = False) -> Iterator[int | None]:
    """A locked descriptor of `draft`; None while another process has it (wait: until it has not),
    or once `final` is there. Raises OSError."""
    descriptor = _locked(draft, final, wait)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)  # and the lock with it


def _locked(draft: Path, final: Path | None, wait: bool) -> int | None:
    while final is None or not final.exists():
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # What was locked may have been renamed or removed since it was opened.
            if os.fstat(descriptor).st_ino == draft.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
    return None


def finish(draft: Path, final: Path, descriptor: int) -> None:
    """What was written becomes `final`, on disk before it has that name."""
    os.fsync(descriptor)
    draft.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear(draft: Path) -> None:
    """Removes a draft whose writer is gone."""
    with drafted(draft) as mine:
        if mine is not None:
            draft.unlink(missing_ok=True)


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A new SQLite file in the place of `path` when the block ends without an error. The same
    statements give the same bytes. Raises OSError and sqlite3.Error."""
    draft = path.with_suffix(".draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(draft, wait=True) as descriptor:
        assert descriptor is not None
        os.ftruncate(descriptor, 0)
        # No locks of SQLite's own: on some systems they would meet the one just taken.
        address = f"{draft.absolute().as_uri()}?vfs=unix-none"
        with closing(sqlite3.connect(address, uri=True)) as db, db:
            db.execute("pragma journal_mode = off")  # nobody sees the file before it is whole
            yield db
        finish(draft, path, descriptor)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Of a finished file; none when it is not there, torn or of another version: what these files
    hold can be found out again."""
    if not path.exists():
        return []
    try:
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as db:
            return db.execute(query).fetchall()
    except sqlite3.Error:
        return []
