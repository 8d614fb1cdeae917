"""Opening regular files and nothing else: a pipe is waited for without end, a device read so."""

import io
import os
import stat
from typing import BinaryIO

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Refused(OSError):
    """A file that is there and is not opened; the text says why."""


def open_regular(path: str | os.PathLike[str], max_bytes: int) -> BinaryIO:
    """The file at `path`, links followed. Raises OSError; Refused for what is not a regular file
    or holds more than `max_bytes`.

    It is looked at before it is opened, as opening a device does something to it, and again
    afterwards: it may have been exchanged meanwhile.
    """
    _check(os.stat(path), max_bytes)
    fd = os.open(path, FLAGS)
    try:
        found = os.fstat(fd)
        _check(found, max_bytes)
        if found.st_size:
            return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return io.BytesIO()  # /proc: its files say that they are empty, and show the kernel's memory


def read_unlinked(path: str, max_bytes: int) -> bytes | None:
    """The content of a small file; None for a link, which is not followed. Raises OSError."""
    here = os.lstat(path)
    if stat.S_ISLNK(here.st_mode):
        return None
    _check(here, max_bytes)
    fd = os.open(path, FLAGS | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd)
        _check(found, max_bytes)
        data = b""
        while len(data) < found.st_size and (some := os.read(fd, found.st_size - len(data))):
            data += some
        return data
    finally:
        os.close(fd)


def _check(found: os.stat_result, max_bytes: int) -> None:
    if stat.S_ISREG(found.st_mode) and found.st_size <= max_bytes:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, "it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise Refused("it is not a regular file")
    raise Refused(f"it holds {found.st_size:,} bytes, and {max_bytes:,} are the most")
