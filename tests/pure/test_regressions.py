"""benchmarks/regressions.py: two results, and the ratios that became worse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "regressions.py"
OLD = {"benchmark": "b", "rows": [{"ratio": 1.0}, {"ratio": 1.2, "seconds": 3}], "cpu_ratio": 0.8}


def compared(folder: Path, new: dict[str, Any], *words: str) -> tuple[int, str]:
    """Exit code and text."""
    paths = []
    for name, content in (("old", OLD), ("new", new)):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    command = [sys.executable, str(SCRIPT), *map(str, paths), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_ratio_within_the_tolerance_is_not_worse(tmp_path: Path) -> None:
    new = {"rows": [{"ratio": 1.04}, {"ratio": 1.0, "seconds": 99}], "cpu_ratio": 0.8}
    assert compared(tmp_path, new) == (0, "3 ratios, none is worse\n")


def test_worse_and_missing_ratios_are_named(tmp_path: Path) -> None:
    new = {"rows": [{"ratio": 1.07}, {"ratio": 1.0}]}
    code, text = compared(tmp_path, new)
    assert code == 1
    assert text.splitlines() == [
        "cpu_ratio: 0.800 before, missing now",
        "rows[0].ratio: 1.000 before, 1.070 now",
    ]
    assert compared(tmp_path, {**OLD, **new}, "--tolerance", "0.1")[0] == 0
