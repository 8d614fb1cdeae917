"""metrics.jsonl: one line per step, and the same lines after any interruption."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sd3tune.errors import DiskError
from sd3tune.report import metrics
from sd3tune.report.metrics import WINDOW, Metrics


def images(step: int) -> list[tuple[float, float]]:
    return [((step * 7 + i) % 100 / 100, step + i / 10) for i in range(2)]


def write(log: Metrics, steps: range) -> None:
    for step in steps:
        log.write(step, {"loss": step / 3, "grad_norm": float("inf")}, images(step))


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


BAD = [b'{"step": 7, "lo', b"not JSON", b"\xff\0\0", b"[]", b'{"step": 7}', b"[" * 10**5,
       b'{"step": "7", "level_images": [], "level_loss_sums": []}']  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_in_the_middle_is_skipped_and_stays(bad: bytes, tmp_path: Path) -> None:
    """The disk was full for a moment, or somebody wrote beside us."""
    path, whole = tmp_path / "m", tmp_path / "whole"
    write(Metrics(whole, 0), range(1, 31))
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:10], bad + b"\n", *lines[10:25]]))
    metrics.refuse_strangers(path)
    write(Metrics(path, 20), range(21, 31))
    assert path.read_bytes() == b"".join([*lines[:10], bad + b"\n", *lines[10:]])


ROW = {"step": 1, "level_loss_sums": [0.0] * 10, "level_images": [1] * 10}
INFINITE = float("inf")


@pytest.mark.parametrize("numbers", [
    {"level_loss_sums": [INFINITE] * 10}, {"level_loss_sums": [-INFINITE] * 10},
    {"level_loss_sums": [float("nan")] * 10}, {"level_loss_sums": [1.7e308] * 10},
    {"level_loss_sums": [10**400] * 10}, {"level_images": [10**400] * 10},
    {"level_images": [-2] * 10}, {"level_images": [True] * 10},
])  # fmt: skip
def test_numbers_that_cannot_be_averaged_are_not_a_row(
    numbers: dict[str, Any], tmp_path: Path
) -> None:
    path, bad = tmp_path / "m", (json.dumps(ROW | numbers) + "\n").encode() * 3
    write(Metrics(path, 0), range(1, 4))
    path.write_bytes(bad + path.read_bytes())
    write(Metrics(path, 3), range(4, 6))
    assert path.read_bytes().startswith(bad)
    write(Metrics(tmp_path / "alone", 0), range(1, 6))
    assert path.read_bytes()[len(bad) :] == (tmp_path / "alone").read_bytes()


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_holds_no_row_and_does_not_swallow_the_next(
    end: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "m"
    write(Metrics(path, 0), range(1, 3))
    whole = path.read_bytes()
    row = whole.splitlines()[1]
    path.write_bytes(whole + b"x" * metrics.MAX_LINE_BYTES + row + end)
    assert not metrics.has_rows(path, 2)
    write(Metrics(path, 2), range(3, 4))
    lines = path.read_bytes().split(b"\n")
    assert lines[2].startswith(b"xxx") and json.loads(lines[3])["step"] == 3


def test_a_last_row_without_its_line_feed_is_a_row(tmp_path: Path) -> None:
    """As an editor leaves it."""
    whole, path = tmp_path / "whole", tmp_path / "m"
    write(Metrics(whole, 0), range(1, 6))
    write(Metrics(path, 0), range(1, 4))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write(Metrics(path, 3), range(4, 6))
    assert path.read_bytes() == whole.read_bytes()


def test_a_bad_line_between_rows_that_go_stays_too(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(Metrics(path, 0), range(1, 9))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b"a note of mine\n", *lines[6:], b'{"step": 9, "l']))
    write(Metrics(path, 5), range(6, 8))
    assert path.read_bytes() == b"".join([*lines[:5], b"a note of mine\n", *lines[5:7]])
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_nothing_is_cut_before_the_first_row_is_written(tmp_path: Path) -> None:
    write(Metrics(tmp_path / "m", 0), range(1, 9))
    before = (tmp_path / "m").read_bytes()
    Metrics(tmp_path / "m", 3)  # of a process that does not write, or is killed at once
    assert (tmp_path / "m").read_bytes() == before


def test_rows_beyond_a_step_are_copied_before_they_go(tmp_path: Path) -> None:
    write(Metrics(tmp_path / "m", 0), range(1, 9))
    metrics.copy_rows(tmp_path / "m", tmp_path / "aside", 5)
    assert [row["step"] for row in rows(tmp_path / "aside")] == [6, 7, 8]
    assert metrics.has_rows(tmp_path / "m", 7) and not metrics.has_rows(tmp_path / "m", 8)


@pytest.mark.parametrize("text", ["not JSON\n", '{"step": 1, "loss": 2.0}\n', "[]", "\0" * 4096])
def test_a_file_without_a_row_of_ours_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_text(text)
    with pytest.raises(DiskError, match="does not hold metrics") as refused:
        metrics.refuse_strangers(tmp_path / "m")
    assert "move it away" in refused.value.hint and (tmp_path / "m").read_text() == text


def test_cutting_writes_through_no_planted_link(tmp_path: Path) -> None:
    path, victim = tmp_path / "m", tmp_path / "bashrc"
    write(Metrics(path, 0), range(1, 31))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"not a row\n"]))  # what stays after what goes
    victim.write_text("precious")
    (tmp_path / ".m.tmp").symlink_to(victim)
    with pytest.raises(DiskError, match="is a symbolic link: remove that"):
        write(Metrics(path, 20), range(21, 31))
    assert victim.read_text() == "precious"


def test_a_file_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    os.truncate(tmp_path / "m", 2**40)
    with pytest.raises(DiskError, match="does not hold metrics"):
        metrics.refuse_strangers(tmp_path / "m")


def test_what_is_not_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("fifo", "folder", "link"):
        with pytest.raises(DiskError, match=r"is not a regular file|is a symbolic link"):
            metrics.refuse_strangers(tmp_path / name)


@pytest.mark.parametrize("text", ["", '{"st', '{"step": 1, "loss": 2.', None])
def test_the_beginning_of_a_first_row_is_ours(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "m").write_text(text)
    metrics.refuse_strangers(tmp_path / "m")
    write(Metrics(tmp_path / "m", 0), range(1, 3))
    assert [row["step"] for row in rows(tmp_path / "m")] == [1, 2]
