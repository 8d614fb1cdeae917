"""`sd3tune` as a user types it: in a process of its own, or in this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sd3tune import cli

ROOT = Path(__file__).parents[1]


def sd3tune(
    *words: str, cwd: Path | None = None, seconds: float = 300, **environ: str
) -> subprocess.CompletedProcess[str]:
    """A process of its own, with what it printed. environ: beside this process's own."""
    return subprocess.run(
        [sys.executable, "-m", "sd3tune", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environ,
        timeout=seconds,
    )


def exit_code(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """In this process, where starting another one for each case would take minutes."""
    monkeypatch.setattr("sys.argv", ["sd3tune", *words])
    try:
        cli.main()
    except SystemExit as e:
        return int(e.code or 0)
    return 0
