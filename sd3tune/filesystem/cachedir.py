"""The mark of a folder whose files sd3tune may remove: a CACHEDIR.TAG that names sd3tune.

Format: https://bford.info/cachedir/. Backup programs skip such folders.
"""

import os
from pathlib import Path

from sd3tune.filesystem import opening

TAG, SHARDS = "CACHEDIR.TAG", "shards"  # SHARDS: the folder of the entries
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
OURS = "# This folder is a cache of sd3tune: docs/concepts/caches.md"
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_marked(folder: Path) -> bool:
    """Whether the folder has a CACHEDIR.TAG that sd3tune wrote."""
    try:
        lines = opening.text(folder / TAG).splitlines()
    except (OSError, ValueError):
        return False
    return lines[:1] == [SIGNATURE] and OURS in lines


def has_shards(folder: Path) -> bool:
    """Whether a cache folder holds any entry."""
    try:
        return any((folder / SHARDS).glob("*.safetensors"))
    except OSError:
        return False


def mark(folder: Path) -> None:
    """Writes the tag; an existing tag, also of another program, stays unchanged. Raises OSError."""
    try:
        descriptor = os.open(folder / TAG, FLAGS, 0o666)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as f:
        f.write(f"{SIGNATURE}\n{OURS}\n")


def unmark(folder: Path) -> None:
    """Removes sd3tune's tag, so that an empty cache folder can be removed."""
    if is_marked(folder):
        (folder / TAG).unlink(missing_ok=True)
