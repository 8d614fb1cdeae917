"""What a disk refuses, in words: which path, what was being done, why, and what helps.

Full, over quota, read-only, gone and forbidden are told apart, since each is mended otherwise.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import DiskError

# errno -> (why, what to do)
_FULL = "the disk is full", "free some space there, or choose a folder on a larger disk"
_GONE = (
    "it is not there: it was removed, or its disk is not mounted any more",
    "mount or make the folder again",
)
_BROKEN = (
    "the disk does not answer (input/output error)",
    "look at `dmesg` and at the disk's health",
)
_FORBIDDEN = "permission is denied", "choose a folder you may write to, or change its owner"
_OPEN = "too many files are open", "raise the limit with `ulimit -n 4096`"
REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: (
        "your quota on this disk is used up",
        "remove files of yours there, or choose a folder on another disk",
    ),
    errno.EROFS: (
        "the file system is read-only",
        "choose a folder you may write to; a disk that became read-only by itself may be failing",
    ),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENOENT: _GONE,
    errno.ESTALE: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.ENOTCONN: _GONE,
    errno.EHOSTDOWN: _GONE,
    errno.EIO: _BROKEN,
    errno.ETIMEDOUT: _BROKEN,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
    errno.EFBIG: (
        "the file is too large for this file system, or for `ulimit -f`",
        "choose a folder on another file system, or raise the limit",
    ),
    errno.ENOTDIR: ("a part of the path is a file", "choose another path, or move that file away"),
    errno.EISDIR: ("it is a folder", "move that folder away"),
    errno.ELOOP: ("it is a symbolic link that is not followed", "remove the link"),
}
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors ends what the system told it


def number(error: BaseException) -> int | None:
    """The errno of an OSError, or of the one that safetensors wrapped in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, FileNotFoundError):  # safetensors' own, without a number
        return errno.ENOENT
    said = OS_ERROR.search(str(error))
    return int(said[1]) if said else None


def reason(error: Exception) -> tuple[str, str]:
    """Why, and what to do, each in words that follow a path."""
    known = REASONS.get(number(error) or 0)
    if known is not None:
        return known
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said, "choose another folder"


def refusal(what: str, path: Path | str, error: Exception, *, then: str = "") -> DiskError:
    """An error to raise. what: "write", "make", ...; then: what is kept, a sentence without its
    full stop."""
    why, remedy = reason(error)
    return DiskError(f"cannot {what} `{path}`: {why}", hint=f"{remedy}; {then}" if then else remedy)


@contextmanager
def explained(what: str, path: Path | str, *, then: str = "") -> Iterator[None]:
    """Raises DiskError in the place of what the system or safetensors raises."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as e:
        raise refusal(what, path, e, then=then) from e
