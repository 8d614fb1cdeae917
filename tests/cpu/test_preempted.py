"""Pre-empted again and again, a run loses one interval at most and ends as an undisturbed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "preemptions.py"


@pytest.mark.slow
def test_twenty_preemptions_of_every_kind_lose_nothing() -> None:
    """The benchmark with fewer of them; LOG.md has the thousand."""
    command = [sys.executable, str(BENCHMARK), "20", "0", "18"]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("pre-emptions") == 1 and "identical: yes" in ran.stdout
    assert " 20 pre-emptions (" in ran.stdout
