"""Errors of the file system as messages: the path, the operation, the cause, and what to do.

Full, over quota, read-only, missing and forbidden are distinguished, because each needs another
remedy.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import DiskError

# errno -> (cause, what to do)
_FULL = "the disk is full", "free some space there, or choose a folder on a larger disk"
_GONE = (
    "it does not exist: it was removed, or its disk is not mounted any more",
    "mount the disk or create the folder again",
)
_BROKEN = (
    "the disk does not answer (input/output error)",
    "check `dmesg` and the health of the disk",
)
_FORBIDDEN = "permission is denied", "choose a folder you may write to, or change its owner"
_OTHER_NAME = "choose another name for the folder"
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
    errno.EEXIST: ("a file has the name of the folder", "move that file away"),
    errno.ENOTDIR: ("a part of the path is a file", "choose another path, or move that file away"),
    errno.EISDIR: ("it is a folder", "move that folder away"),
    errno.ELOOP: ("it is a symbolic link that is not followed", "remove the link"),
}
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # the end of safetensors' message for a system error


def number(error: BaseException) -> int | None:
    """The errno of an OSError, or of the one that safetensors put into its message; else None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, FileNotFoundError):  # safetensors' own, without a number
        return errno.ENOENT
    said = OS_ERROR.search(str(error))
    return int(said[1]) if said else None


def reason(error: Exception) -> tuple[str, str]:
    """The cause and the remedy, as text that follows a path."""
    known = REASONS.get(number(error) or 0)
    own = isinstance(error, FileExistsError) and error.strerror != os.strerror(errno.EEXIST)
    if known is not None and not own:  # a draft in the way is named in a sentence of its own
        return known
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said, "choose another folder"


def refusal(what: str, path: Path | str, error: Exception, *, then: str = "") -> DiskError:
    """The error to raise. what: the operation, such as "write"; then: what was kept, a sentence
    without its full stop."""
    why, remedy = reason(error)
    return DiskError(f"cannot {what} `{path}`: {why}", hint=f"{remedy}; {then}" if then else remedy)


def unwritable(folder: Path) -> tuple[str, str] | None:
    """Why nothing can be written in a folder that is there or would be made, and what to do; None
    where that is possible as far as is known without writing."""
    there = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    if not there.is_dir():
        return REASONS[errno.ENOTDIR] if there != folder else ("it is a file", _OTHER_NAME)
    if there.resolve().parts[1:2] in (("proc",), ("sys",)):  # root may write, and nothing is kept
        return "the kernel keeps it", _OTHER_NAME
    if os.access(there, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    why, remedy = REASONS[errno.EROFS if read_only else errno.EACCES]
    return (why if there == folder else f"{why} in `{there}`"), remedy


def free_bytes(path: Path) -> int | None:
    """Bytes that a user may write where `path` is or would be made; None: unknown."""
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), None)
    try:
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None


@contextmanager
def explained(what: str, path: Path | str, *, then: str = "") -> Iterator[None]:
    """Turns an OSError or SafetensorError inside the block into a DiskError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as e:
        raise refusal(what, path, e, then=then) from e
