"""Files that somebody else may have put there, as text and as JSON: regular files only, and not
larger than such a file can be. A link is followed: the hub's cache consists of them.
"""

import io
import json
import stat
from pathlib import Path
from typing import Any, BinaryIO

from sd3tune.regular import open_regular

MAX_TEXT_BYTES = 64 * 2**20  # a tokenizer.json is some megabytes
NO_LIMIT = 2**63


def opened(path: Path) -> BinaryIO:
    """For reading; the caller closes it. Raises OSError."""
    return open_regular(path, NO_LIMIT)


def size(path: Path) -> int:
    """Bytes of a regular file that can be read. Raises OSError for anything else."""
    with opened(path) as f:
        return f.seek(0, io.SEEK_END)


def is_regular(path: Path) -> bool:
    """False too for what is not there or cannot be looked at."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return False


def text(path: Path, encoding: str = "utf-8") -> str:
    """Its line ends as \\n. Raises OSError, and UnicodeDecodeError."""
    with open_regular(path, MAX_TEXT_BYTES) as f:
        return io.TextIOWrapper(f, encoding).read()


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
