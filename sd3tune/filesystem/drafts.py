"""Atomic writes: a file is complete or absent, and one process at a time writes it.

A writer locks a draft (the unfinished file) and renames it when it is complete. The operating
system releases the lock of a killed writer, and the next writer overwrites its draft. In a folder
that other people can write to, a draft could be a link to another file. It is therefore opened
without following links, and only if it is a regular file with one name (no hard links).
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".draft"  # of a file that is being written beside its final name
PARTS = ".parts"  # the folder beside a draft, see drafted_by_name
BUFFERED_BYTES = 2**20  # small pieces are written together
Buffer = bytes | memoryview | ctypes.Array[ctypes.c_char]
FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def drafted(draft: Path, final: Path | None = None, *, wait: bool = False) -> Iterator[int | None]:
    """A locked descriptor of `draft`. None if another process has locked it (with `wait`, waits
    until it is released instead), or if `final` exists. Raises OSError."""
    descriptor = _locked(draft, final, wait)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)  # and the lock with it


def _locked(draft: Path, final: Path | None, wait: bool) -> int | None:
    while final is None or not final.exists():
        descriptor = _opened(draft)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The locked file may have been renamed or removed since it was opened.
            if os.path.samestat(os.fstat(descriptor), os.lstat(draft)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)
    return None


def _opened(draft: Path) -> int:
    try:
        descriptor = os.open(draft, FLAGS, 0o666)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.EMLINK):  # as O_NOFOLLOW answers; EMLINK: BSD
            raise _planted("a symbolic link", draft) from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        regular = stat.S_ISREG(status.st_mode)
        raise _planted("a second name of another file" if regular else "not a file", draft)
    return descriptor


def _planted(what: str, draft: Path) -> OSError:
    return OSError(errno.EEXIST, f"its draft `{draft.name}` is {what}: remove that", str(draft))


@contextmanager
def drafted_by_name(draft: Path) -> Iterator[Path | None]:
    """A path for a library that opens the file itself. The path lies in a new folder that only this
    user can enter, and `draft` is locked meanwhile. None while another process has the lock. The
    folder is removed at the end; after a kill, the next writer removes it. Raises OSError.
    """
    with drafted(draft) as lock:
        if lock is None:
            yield None
            return
        folder = draft.with_suffix(PARTS)
        _remove_folder(folder)
        folder.mkdir(mode=0o700)
        try:
            yield folder / draft.name
        finally:
            _remove_folder(folder)
            draft.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Raises OSError for a link."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def settle(written: Path, final: Path) -> None:
    """Like `finish`, for a file that was written by its path."""
    descriptor = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        finish(written, final, descriptor)
    finally:
        os.close(descriptor)


def fill(descriptor: int, *pieces: Buffer) -> None:
    """Replaces the content of the draft by these bytes. Raises OSError."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "wb", buffering=BUFFERED_BYTES, closefd=False) as f:
        for piece in pieces:
            f.write(piece)


def finish(draft: Path, final: Path, descriptor: int) -> None:
    """Renames the draft to `final`, after its content was synced to disk."""
    os.fsync(descriptor)
    draft.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write(path: Path, data: bytes | memoryview, *, synced: bool = True) -> None:
    """Writes `data` to `path` atomically: on failure the previous file stays. A link is replaced,
    not followed. synced=False: the caller syncs the file later. Raises OSError, also if `path` is
    not a regular file: root could replace /dev/null."""
    _refuse_others(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with drafted(draft, wait=True) as descriptor:
        assert descriptor is not None
        try:
            fill(descriptor, data)
            if synced:
                finish(draft, path, descriptor)
            else:
                draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def _refuse_others(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        special = path.is_symlink() and path.readlink().is_relative_to("/proc")  # /dev/stdout
    except FileNotFoundError:  # or a link to nothing
        return
    except OSError as e:
        if e.errno == errno.ELOOP:
            return
        raise
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if special or not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def clear(draft: Path) -> None:
    """Removes a draft whose writer has ended; a link or a folder of that name stays."""
    with suppress(OSError), drafted(draft) as mine:
        if mine is not None:
            _remove_folder(draft.with_suffix(PARTS))
            draft.unlink(missing_ok=True)
