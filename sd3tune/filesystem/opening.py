"""Opening regular files only. Opening a pipe waits until somebody writes, and a device has no end.

A link is followed: the hub's cache consists of them.
"""

import errno
import json
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

AnyPath = str | os.PathLike[str]

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
MAX_TEXT_BYTES = 64 * 2**20  # a tokenizer.json is some megabytes


def size(path: Path) -> int:
    """Bytes of a regular file that can be read. Raises OSError for anything else."""
    with opened(path) as f:
        return f.seek(0, os.SEEK_END)


def is_regular(path: Path) -> bool:
    """False too for what is not there or cannot be looked at."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return False


def has_utf8_name(path: Path) -> bool:
    """Libraries in other languages take no other names. Python holds other bytes as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def opened(path: AnyPath, max_bytes: int | None = None) -> BinaryIO:
    """For reading; the caller closes it. Raises OSError, also for more than `max_bytes`."""
    # First: opening some devices alone does something.
    _checked(os.stat(path), path, max_bytes)  # noqa: PTH116  Path is slow by the hundred thousand
    descriptor = os.open(path, FLAGS)
    try:
        # It may have been exchanged since.
        status = _checked(os.fstat(descriptor), path, max_bytes)
        if status.st_size:
            return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return BytesIO()  # /proc: its files say that they are empty, and show the kernel's memory


def read_unlinked(path: str, max_bytes: int) -> bytes | None:
    """The content of a small file; None for a link, which is not followed. Raises OSError."""
    here = os.lstat(path)
    if stat.S_ISLNK(here.st_mode):
        return None
    _checked(here, path, max_bytes)
    descriptor = os.open(path, FLAGS | os.O_NOFOLLOW)
    try:
        left = _checked(os.fstat(descriptor), path, max_bytes).st_size
        data = b""
        while left and (some := os.read(descriptor, left)):
            data, left = data + some, left - len(some)
        return data
    finally:
        os.close(descriptor)


def text(path: Path, encoding: str = "utf-8") -> str:
    """Its line ends as \\n. Raises OSError, and UnicodeDecodeError."""
    with opened(path, MAX_TEXT_BYTES) as f:
        words = f.read(MAX_TEXT_BYTES).decode(encoding)
    return words.replace("\r\n", "\n").replace("\r", "\n")


def json_of(path: Path) -> Any:
    """Raises OSError, and ValueError for what is not JSON."""
    return parsed(text(path, "utf-8-sig"))


def json_object(path: Path) -> dict[str, Any]:
    """The same for a file that must hold an object."""
    data = json_of(path)
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, not an object")
    return data


def parsed(words: str | bytes, *, unique: bool = False) -> Any:
    """JSON of a stranger. unique: no object may name a key twice. Raises ValueError, for what is
    nested too deeply as well."""
    try:
        return json.loads(words, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has `{name}` twice")
        found[name] = value
    return found


def _checked(status: os.stat_result, path: AnyPath, max_bytes: int | None = None) -> os.stat_result:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a regular file", os.fspath(path))
    if max_bytes is not None and status.st_size > max_bytes:
        why = f"it holds {status.st_size:,} bytes, and {max_bytes:,} are the most"
        raise OSError(errno.EFBIG, why, os.fspath(path))
    return status


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
