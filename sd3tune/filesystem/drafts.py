"""Files that appear whole or not at all, written by one process at a time.

Writers lock the draft they write and rename it when it is done. The lock of a writer that was
killed is gone with it, and its draft is written over by the next. In a folder that others can write
to, a draft may be a link to somebody's file: it is opened without following links, and only when it
is a regular file with one name.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTS = ".parts"  # the folder beside a draft, see drafted_by_name
FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
        descriptor = _opened(draft)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # What was locked may have been renamed or removed since it was opened.
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
    """A file to be written by a library that opens it itself, alone in a new folder that only this
    user can enter, while `draft` is locked; None while another process has the lock. Whatever is
    left in the folder is removed: at the end, or, of a killed writer, by the next. Raises OSError.
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
    """`finish`, for a file written by its name."""
    descriptor = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        finish(written, final, descriptor)
    finally:
        os.close(descriptor)


def fill(descriptor: int, data: bytes | memoryview) -> None:
    """The draft holds `data` and nothing else. Raises OSError."""
    os.ftruncate(descriptor, 0)
    rest, at = memoryview(data), 0
    while at < len(rest):
        at += os.pwrite(descriptor, rest[at:], at)


def finish(draft: Path, final: Path, descriptor: int) -> None:
    """What was written becomes `final`, on disk before it has that name."""
    os.fsync(descriptor)
    draft.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write(path: Path, data: bytes | memoryview) -> None:
    """The whole file, or the one that was there before. A link is replaced and not followed. Raises
    OSError, also for what is not a file: root could replace /dev/null."""
    _refuse_others(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with drafted(draft, wait=True) as descriptor:
        assert descriptor is not None
        try:
            fill(descriptor, data)
            finish(draft, path, descriptor)
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
    """Removes a draft whose writer is gone; a link or a folder of that name is left."""
    with suppress(OSError), drafted(draft) as mine:
        if mine is not None:
            _remove_folder(draft.with_suffix(PARTS))
            draft.unlink(missing_ok=True)
