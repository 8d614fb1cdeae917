"""Opening regular files and nothing else: a pipe is waited for without end, a device read so."""

import io
import os
import stat
from typing import BinaryIO

GIB = 2**30


class Refused(OSError):
    """A file that is there and is not opened; the text says why."""


def open_regular(path: str | os.PathLike[str], max_bytes: int) -> BinaryIO:
    """The file at `path`, links followed. Raises OSError; Refused for what is not a regular file
    or holds more than `max_bytes`.

    It is looked at before it is opened, as opening a device does something to it, and again
    afterwards: it may have been exchanged meanwhile.
    """
    _check(os.stat(path), max_bytes)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = _check(os.fstat(fd), max_bytes)
        if size:
            return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return io.BytesIO()  # /proc: its files say that they are empty, and show the kernel's memory


def _check(found: os.stat_result, max_bytes: int) -> int:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, "it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise Refused("it is not a regular file")
    if found.st_size > max_bytes:
        raise Refused(
            f"it holds {found.st_size / GIB:.3g} GiB, and {max_bytes / GIB:.3g} GiB are the most"
        )
    return found.st_size
