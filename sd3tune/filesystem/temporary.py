"""Private temporary folders, through which the processes of one run exchange files.

The working directory is never used, although Python's tempfile falls back to it: it belongs to the
user and may be a shared or slow file system.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd3tune.errors import HardwareError

PREFIX = "sd3tune-"
VARIABLES = ("TMPDIR", "TEMP", "TMP")
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextmanager
def private_folder(purpose: str) -> Iterator[Path]:
    """A new folder that only this user can enter (0700), removed at the end. Raises HardwareError
    if no such folder can be created."""
    with _made(f"{PREFIX}{purpose}-") as folder:
        yield Path(folder)


def refuse_none() -> None:
    """Raises HardwareError if no such folder can be created."""
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
        try:  # on a full disk a folder can be created, but no file in it
            Path(made.name, "probe").write_bytes(bytes(4096))
            Path(made.name, "probe").unlink()
            return made
        except OSError:
            made.cleanup()
    raise HardwareError(
        f"no folder for temporary files is writable: tried {', '.join(_parents())}",
        hint="export TMPDIR=FOLDER: an absolute path on this machine that you may write to",
    )


def _parents() -> list[str]:
    said = [os.environ.get(name, "") for name in VARIABLES]
    last = [os.environ.get("XDG_RUNTIME_DIR", ""), os.path.expanduser("~/.cache")]  # noqa: PTH111
    return [p for p in (*said, *FOLDERS, *last) if os.path.isabs(p)]  # noqa: PTH117
