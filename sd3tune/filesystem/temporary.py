"""Folders for what processes of one run tell each other: private, and gone afterwards.

Not in the working directory, which is where Python's tempfile goes when nothing else can be written
to: that may be a shared or slow file system, and it is the user's.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import HardwareError

VARIABLES = ("TMPDIR", "TEMP", "TMP")
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextmanager
def private_folder(purpose: str) -> Iterator[Path]:
    """A new folder that only this user can enter (0700). Raises HardwareError where none can be
    made."""
    with _made(f"sd3tune-{purpose}-") as folder:
        yield Path(folder)


def refuse_none() -> None:
    """Raises HardwareError where no such folder can be made."""
    with private_folder("look"):
        pass


def _made(prefix: str) -> "tempfile.TemporaryDirectory[str]":
    for parent in _parents():
        try:
            made = tempfile.TemporaryDirectory(
                prefix=prefix, dir=parent, ignore_cleanup_errors=True
            )
        except OSError:
            continue
        try:  # a full disk has room for a folder and for nothing in it
            Path(made.name, "probe").write_bytes(bytes(4096))
            Path(made.name, "probe").unlink()
            return made
        except OSError:
            made.cleanup()
    raise HardwareError(
        f"there is no folder for temporary files: {', '.join(_parents())} cannot be written to",
        hint="export TMPDIR=FOLDER: one on this machine that you may write to, with a whole path",
    )


def _parents() -> list[str]:
    said = [os.environ.get(name, "") for name in VARIABLES]
    last = [os.environ.get("XDG_RUNTIME_DIR", ""), os.path.expanduser("~/.cache")]  # noqa: PTH111
    return [p for p in (*said, *FOLDERS, *last) if os.path.isabs(p)]  # noqa: PTH117
