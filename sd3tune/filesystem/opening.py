"""Opens regular files only: opening a pipe waits for a writer, and a device has no end.

Links are followed, because the hub's cache consists of links.
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
    """Size in bytes of a regular file that can be read. Raises OSError for anything else."""
    with opened(path) as f:
        return f.seek(0, os.SEEK_END)


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file; False also if it does not exist or cannot be examined."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return False


def has_utf8_name(path: Path) -> bool:
    """Whether the name is UTF-8. Libraries in other languages accept only such names; Python keeps
    other bytes as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def opened(path: AnyPath, max_bytes: int | None = None) -> BinaryIO:
    """The file, opened for reading; the caller closes it. Raises OSError, also if the file has more
    than `max_bytes`."""
    # Checked before opening, because opening some devices has an effect.
    _checked(os.stat(path), path, max_bytes)  # noqa: PTH116  Path is slow by the hundred thousand
    descriptor = os.open(path, FLAGS)
    try:
        # Checked again, because the file may have been replaced meanwhile.
        status = _checked(os.fstat(descriptor), path, max_bytes)
        if status.st_size:
            return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return BytesIO()  # files in /proc report size 0 and would show the kernel's memory


def read_unlinked(path: str, max_bytes: int) -> bytes | None:
    """The content of a small file; None if it is a link. Raises OSError."""
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
    """The content as text, line ends as \\n. Raises OSError, and UnicodeDecodeError."""
    with opened(path, MAX_TEXT_BYTES) as f:
        words = f.read(MAX_TEXT_BYTES).decode(encoding)
    return words.replace("\r\n", "\n").replace("\r", "\n")


def json_of(path: Path) -> Any:
    """The JSON value in a file. Raises OSError, and ValueError if it is not JSON."""
    return parsed(text(path, "utf-8-sig"))


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and ValueError if it is not a JSON object."""
    data = json_of(path)
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, not an object")
    return data


def parsed(words: str | bytes, *, unique: bool = False) -> Any:
    """Parses JSON from an untrusted source. unique: refuse objects that name a key twice. Raises
    ValueError, also for JSON that is nested too deeply."""
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
        why = f"it holds {status.st_size:,} bytes; the limit is {max_bytes:,}"
        raise OSError(errno.EFBIG, why, os.fspath(path))
    return status


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
