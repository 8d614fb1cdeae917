"""metrics.jsonl: one line per step, and the same lines after any interruption."""

import json
from pathlib import Path
from typing import Any

from sd3tune.report.metrics import WINDOW, Metrics


def images(step: int) -> list[tuple[float, float]]:
    return [((step * 7 + i) % 100 / 100, step + i / 10) for i in range(2)]


def write(metrics: Metrics, steps: range) -> None:
    for step in steps:
        metrics.write(step, {"loss": step / 3, "grad_norm": float("inf")}, images(step))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=int) for line in path.read_text().splitlines()]


def test_losses_are_averaged_by_noise_level_over_a_window(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(Metrics(path, 0), range(1, 151))
    last = rows(path)[-1]
    assert last["step"] == 150 and last["images"] == 2 and last["loss"] == 50
    assert last["grad_norm"] is None  # JSON has no infinity
    for place in range(10):
        within = [loss for step in range(150 - WINDOW + 1, 151) for level, loss in images(step)
                  if place / 10 <= level < (place + 1) / 10]  # fmt: skip
        assert abs(last["loss_by_level"][place] - sum(within) / len(within)) < 1e-9


def test_a_level_of_one_is_in_the_last_bin_and_an_empty_bin_has_no_mean(tmp_path: Path) -> None:
    Metrics(tmp_path / "m", 0).write(1, {}, [(1.0, 4.0), (0.95, 2.0)])
    assert rows(tmp_path / "m")[0]["loss_by_level"] == [None] * 9 + [3.0]


def test_a_resumed_file_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write(Metrics(whole, 0), range(1, 131))
    write(Metrics(cut, 0), range(1, 121))
    with cut.open("a") as file:
        file.write('{"step": 121, "lo')  # killed while writing
    write(Metrics(cut, 110), range(111, 131))
    assert cut.read_bytes() == whole.read_bytes()


def test_a_run_from_the_beginning_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    write(Metrics(tmp_path / "m", 0), range(1, 20))
    write(Metrics(tmp_path / "m", 0), range(1, 3))
    assert [row["step"] for row in rows(tmp_path / "m")] == [1, 2]
    (tmp_path / "m").write_text("not JSON\n")
    write(Metrics(tmp_path / "m", 5), range(6, 7))
    assert [row["step"] for row in rows(tmp_path / "m")] == [6]
