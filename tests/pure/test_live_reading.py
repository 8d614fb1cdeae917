"""How the page reads the folder of a run: new lines once, nothing outside, all of it bounded."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sd3tune.live.bounded import MAX_TEXT, bounded
from sd3tune.live.card_sample import CardSample
from sd3tune.live.curves import BLOCK_ROWS, Curves
from sd3tune.live.run_folder import RunFolder
from sd3tune.live.run_reader import RunReader
from sd3tune.live.tail import MAX_LINE_BYTES, Tail
from tests.live_runs import append, checkpoint, picture, rows, run_folder, started


def read(folder: Path, now: float | None = None) -> RunReader:
    run = RunReader(folder) if now is None else RunReader(folder, now=lambda: now)
    run.refresh()
    return run


def tail_of(path: Path) -> Tail:
    return Tail(RunFolder(path.parent), path.name)


def test_a_tail_reads_each_line_once_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = tail_of(path)
    assert tail.read() == ([], False), "no file yet"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert tail.read()[0] == [{"a": 1}, {"a": 2}]
    with path.open("a") as file:
        file.write(": 3}\n")
    assert tail.read()[0] == [{"a": 3}] and tail.read()[0] == []
    assert tail.generation == 0


@pytest.mark.parametrize("written_anew", [False, True])
def test_a_file_that_was_cut_is_read_from_its_beginning(tmp_path: Path, written_anew: bool) -> None:
    """A run that continues from step 2 repeats step 3; nobody looked while it did."""
    path = tmp_path / "lines"
    append(path, [{"step": step, "run": "first"} for step in (1, 2, 3)])
    tail = tail_of(path)
    assert len(tail.read()[0]) == 3
    lines = path.read_text().splitlines(keepends=True)
    if written_anew:
        path.unlink()
        path.write_text("".join(lines[:2]))
    else:
        os.truncate(path, len("".join(lines[:2])))
    append(path, [{"step": step, "run": "again"} for step in (3, 4, 5)])
    assert [each["step"] for each in tail.read()[0]] == [1, 2, 3, 4, 5]
    assert tail.generation == 1


def test_lines_that_are_rubbish_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    deep = b"[" * 200_000
    path.write_bytes(
        b'not JSON\n[1]\n"text"\n\xff\xfe\n{"a": NaN}\n' + deep + b"\n" + b'{"a": "'
        + b"x" * MAX_LINE_BYTES + b'"}\n{"last": true}\n'
    )  # fmt: skip
    assert tail_of(path).read()[0] == [{"a": None}, {"last": True}]


def test_a_line_without_an_end_does_not_keep_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"x" * (20 * 2**20) + b'\n{"a": 1}\n')
    tail = tail_of(path)
    found: list[Any] = []
    more = True
    while more:
        some, more = tail.read()
        found += some
    assert found == [{"a": 1}]


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "link", "linked/secret", "..",
             "a\\..\\b", "pipe", "twin", "a\0b", "folder", ""],
)  # fmt: skip
def test_nothing_but_the_regular_files_of_the_folder_can_be_read(tmp_path: Path, path: str) -> None:
    """Links, pipes, second names of other files, and paths that leave the folder."""
    (tmp_path / "secret").write_text("secret")
    run = tmp_path / "run"
    (run / "folder").mkdir(parents=True)
    (run / "link").symlink_to(tmp_path / "secret")
    (run / "linked").symlink_to(tmp_path)
    (run / "twin").hardlink_to(tmp_path / "secret")
    os.mkfifo(run / "pipe")
    (run / "plain").write_text("plain")
    folder = RunFolder(run)
    with pytest.raises((OSError, ValueError)):
        folder.read(path, 100)
    assert folder.read("plain", 100) == b"plain"
    assert [entry.name for entry in folder.entries()] == ["folder", "plain"]
    with pytest.raises(OSError, match="more than 4 bytes"):
        folder.read("plain", 4)


def test_json_of_strangers_is_cut_to_what_a_page_can_show() -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = [deep]
    value = bounded(
        {"text": "x" * 10**6, "inf": 1e999, "huge": 10**30, "deep": deep, "n": list(range(10**5))}
    )
    assert len(value["text"]) == MAX_TEXT + 1 and value["inf"] is None and value["huge"] is None
    assert len(json.dumps(value["deep"])) < 40 and len(value["n"]) == 4000


def test_curves_keep_rows_in_order_and_drop_numbers_that_no_browser_has() -> None:
    curves = Curves()
    good = {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1e300}, {"step": 5, "loss": "much"}
    bad = {"step": 1, "loss": 3.0}, {"step": True}, {"step": 2**40}, {"loss": 1}
    for row in (good[0], *bad, *good[1:]):
        curves.add(row)
    assert list(curves.columns["step"]) == [1, 2, 5]
    assert [x == x for x in curves.columns["loss"]] == [True, False, False]
    assert set(curves.block(0)["columns"]) == {"step", "loss"}, "columns without a number stay out"


def test_many_rows_are_sent_in_blocks() -> None:
    curves = Curves()
    for step in range(1, BLOCK_ROWS + 11):
        curves.add({"step": step})
    assert curves.block(0)["rows"] == BLOCK_ROWS and curves.block(BLOCK_ROWS)["rows"] == 10


def test_a_run_is_shown_with_all_it_has(tmp_path: Path) -> None:
    sections = read(run_folder(tmp_path / "output")).sections
    about = sections["about"]
    assert (about["name"], about["step"], about["steps"]) == ("tiny-cats", 120, 300)
    assert [(p["step"], p["kind"]) for p in sections["pictures"][::2]] == [
        (0, "base"), (50, "during"), (100, "during")]  # fmt: skip
    assert sections["pictures"][0]["prompt"] == "a red circle above a plank"
    assert sections["pictures"][0]["seed"] == 7
    assert [e["loss"] for e in sections["evaluations"]] == [1.21, 0.82, 0.55]
    assert sections["checkpoints"][0]["name"] == "checkpoint-100"
    (rate,) = [d for d in sections["plan"]["decisions"] if d["name"] == "learning_rate"]
    assert (rate["value"], rate["source"]) == (0.002, "user")
    assert "step 20: loss 2.1 is a spike" in [line["text"] for line in sections["log"]]
    json.dumps(sections, allow_nan=False)


def test_a_run_of_before_shows_the_plan_of_its_newest_checkpoint(tmp_path: Path) -> None:
    append(tmp_path / "metrics.jsonl", rows(1, 20))
    checkpoint(tmp_path, 10)
    sections = read(tmp_path).sections
    assert len(sections["plan"]["decisions"]) == 5 and sections["about"]["steps"] == 300


def test_events_that_a_continued_run_repeats_are_void(tmp_path: Path) -> None:
    events = run_folder(tmp_path) / "events.jsonl"
    run = read(tmp_path)
    append(events, [started(50)])
    time.sleep(0.6)
    run.refresh()
    assert [e["step"] for e in run.sections["evaluations"]] == [0, 50]
    append(events, [started(0, run="another")])
    time.sleep(0.6)
    run.refresh()
    assert run.sections["evaluations"] == []


@pytest.mark.parametrize(
    "last, age, state",
    [
        ({"event": "run.ended", "step": 120, "time": 9.0, "outcome": "finished"}, 0, "finished"),
        ({"event": "run.ended", "step": 120, "time": 9.0, "outcome": "failed", "reason": "no"}, 0,
         "failed"),
        ({"event": "message", "step": 120, "time": 9.0, "text": "x"}, 0, "running"),
        ({"event": "message", "step": 120, "time": 9.0, "text": "x"}, 3600, "interrupted"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_follows_from_its_files(
    tmp_path: Path, last: dict[str, Any], age: float, state: str
) -> None:
    append(run_folder(tmp_path) / "events.jsonl", [last])
    about = read(tmp_path, time.time() + age).sections["about"]
    assert about["state"] == state and not about["can_stop"]


def test_a_folder_without_a_run_waits_for_one(tmp_path: Path) -> None:
    about = read(tmp_path / "later").sections["about"]
    assert (about["state"], about["step"], about["steps"]) == ("waiting", 0, None)


def test_a_run_folder_of_a_stranger_breaks_nothing(tmp_path: Path) -> None:
    """Fields of every wrong type, pictures that are none, links to elsewhere."""
    nasty: list[Any] = [None, True, -1, 1e999, "x" * 10**5, [[]], {"a": {"b": []}}, 10**400]
    kinds = ["run.started", "message", "evaluation", "scores", "picture", "preview", "checkpoint",
             "run.ended", "sheet"]  # fmt: skip
    for kind in kinds:
        for value in nasty:
            fields = "step steps name plan settings dataset loss scores path text level outcome "
            fields += "reason time size by_level kind run version"
            append(
                tmp_path / "events.jsonl",
                [{"event": kind, "step": 3, field: value} for field in fields.split()],
            )
    append(
        tmp_path / "events.jsonl",
        [
            {
                "event": "run.started",
                "step": 0,
                "plan": {
                    "decisions": {"a": 1, "model": []},
                    "facts": 3,
                    "memory": 7,
                    "warnings": 1,
                },
            }
        ],
    )
    append(
        tmp_path / "metrics.jsonl",
        [{"step": 1, "loss_by_level": ["x", {}], "spike": [1], "loss": {}}],
    )
    pictures = tmp_path / "validation_images"
    picture(pictures / "step_1_good_0_128x128.png", "good")
    (pictures / "step_2_bad_0_64x64.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(500))
    (pictures / "step_3_link_0_64x64.png").symlink_to("/etc/passwd")
    (tmp_path / "checkpoint-1").symlink_to("/etc")
    (tmp_path / ".sd3tune.lock").write_text('{"pid": "x"}')
    sections = read(tmp_path).sections
    json.dumps(sections, allow_nan=False)
    assert [p["shortname"] for p in sections["pictures"]] == ["good", "bad"]
    assert sections["checkpoints"] == []


def test_cards_are_asked_beside_everything_else() -> None:
    card = {
        "name": "GPU",
        "used_bytes": 5,
        "total_bytes": 9,
        "temperature_celsius": 61.0,
        "uuid": "secret",
    }
    asked: list[str] = []

    def observe(source: str, root: str) -> dict[str, Any]:
        asked.append(source)
        return {"gpus": [card]}

    sample = CardSample(observe)
    assert sample.read("cpu") == [] and not asked
    sample.read("cuda")
    for _ in range(100):
        if cards := sample.read("cuda"):
            break
        time.sleep(0.02)
    assert cards == [{k: v for k, v in card.items() if k != "uuid"}] and asked == ["nvml"]
