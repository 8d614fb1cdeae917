"""What a child process is busy with, written to a file that its parent reads while it waits.

The variable names the file; without it nobody wants to know. Nothing here raises.
"""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "SD3TUNE_NOW_RUNNING"


def tell(name: str) -> None:
    """In the child: `name` begins."""
    if path := os.environ.get(VARIABLE):
        with suppress(OSError):
            Path(path).write_text(name)


def read(path: Path) -> str:
    """In the parent: what began last; empty where nothing did."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
