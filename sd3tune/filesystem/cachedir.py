"""The mark of a folder whose files sd3tune may remove: a CACHEDIR.TAG that names it.

Format: https://bford.info/cachedir/; backup programs leave such folders out.
"""

import os
from pathlib import Path

from sd3tune.filesystem import opening

TAG = "CACHEDIR.TAG"
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
OURS = "# This folder is a cache of sd3tune: docs/concepts/caches.md"
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_marked(folder: Path) -> bool:
    try:
        lines = opening.text(folder / TAG).splitlines()
    except (OSError, ValueError):
        return False
    return lines[:1] == [SIGNATURE] and OURS in lines


def mark(folder: Path) -> None:
    """A tag of another program is left as it is. Raises OSError."""
    try:
        descriptor = os.open(folder / TAG, FLAGS, 0o666)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as f:
        f.write(f"{SIGNATURE}\n{OURS}\n")


def unmark(folder: Path) -> None:
    """Before an empty cache folder is removed."""
    if is_marked(folder):
        (folder / TAG).unlink(missing_ok=True)
