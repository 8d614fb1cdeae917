"""Small file systems of their own, where this process may mount them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size_bytes: int, options: str = "") -> Iterator[Path]:
    """An empty disk of that size at `folder`; skips the test where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    how = f"size={size_bytes}{options}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk of a test's own: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
