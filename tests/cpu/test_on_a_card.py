"""benchmarks/on_a_card.sh without a card: its parts run, and it goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_a_card.sh"
PARTS = "card_check random_models table-1 host_copies checkpointing"  # tens of seconds each
ROW = "medium b3 r128 1024 px, kept, eager"
HELPS = """
import contextlib, io, pathlib, runpy, sys
for name in sys.argv[1:]:
    sys.argv, text, code = [name, "--help"], io.StringIO(), "none"
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_path(name, run_name="__main__")
    except SystemExit as e:
        code = e.code
    print(pathlib.Path(name).name, code, len(text.getvalue()))
"""


def rehearsed(folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of a rehearsal into `folder`."""
    given = {"SIZE": "tiny", "PYTHON": sys.executable, "ROWS": ROW, **environment}
    done = subprocess.run(["bash", str(SCRIPT), str(folder)], capture_output=True, text=True,
                          env=os.environ | given)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_without_time_every_part_is_left_out_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "pixels.txt").write_text("128")
    code, printed = rehearsed(tmp_path, BUDGET="0")
    lines = [line for line in printed.splitlines() if line.startswith("== ")]
    assert code == 0 and len(lines) == 15
    assert all("left out, " in line for line in lines)
    assert "medium b3 r128 1024 px, kept, compiled" in printed  # the summary


@pytest.mark.slow
def test_a_rehearsal_measures_and_the_same_command_goes_on(tmp_path: Path) -> None:
    code, printed = rehearsed(tmp_path, PARTS=PARTS)
    results = tmp_path / "results"
    assert code == 0 and "exit code" not in printed, printed
    for part in PARTS.split():
        assert (results / f"{part}.done").exists(), printed
    row = json.loads((results / "full_size.json").read_text())["rows"][ROW]
    assert row["seconds"] > 0 and row["predicted_bytes"] > 0 and row["predicted_seconds"] > 0
    assert row["plan"]["keep"] == {"everything": 3} and row["plan"]["compiler"] is None
    assert row["kernels"]["largest"] and row["kernels"]["step_ms"] > 0
    assert json.loads((results / "host_copies.json").read_text())["hidden"].keys() == {
        "adaln", "blocks"}  # fmt: skip
    assert json.loads((results / "summary.json").read_text())["agreement"]["time"].keys() == {ROW}
    again, printed = rehearsed(tmp_path, PARTS=f"{PARTS} table-2")
    assert again == 0 and printed.count("done before") == len(PARTS.split())
    assert f"{ROW:<54} was measured before" in printed


@pytest.mark.slow
def test_every_benchmark_answers_help() -> None:
    benchmarks = SCRIPT.parent
    commands = [p for p in sorted(benchmarks.glob("*.py")) if "__main__" in p.read_text("utf-8")]
    path = os.pathsep.join([str(benchmarks), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", HELPS, *map(str, commands)], text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    answers = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _, _ in answers] == [p.name for p in commands], done.stderr
    assert all(code == "0" and int(size) > 200 for _, code, size in answers), done.stdout
