"""The stream of events, and events.jsonl: what happened in a run, readable after a kill."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.secret_values import SecretValues
from sd3tune.errors import DiskError
from sd3tune.report import event_lines
from sd3tune.report.event_lines import EventLines, read, refuse_strangers, standing
from sd3tune.report.events import (
    NAMES,
    CheckpointSaved,
    Evaluated,
    Event,
    MessageSaid,
    PictureDrawn,
    PreviewDrawn,
    RunEnded,
    RunStarted,
    Scored,
    SheetDrawn,
    StepTaken,
    as_json,
)
from sd3tune.report.message_events import emitted
from sd3tune.report.messages import warn
from sd3tune.report.queued_sink import QueuedSink
from sd3tune.report.stream import Stream, streaming
from tests.schemas import checker

PLAN = {"schema": 2, "decisions": {}, "memory": {}, "warnings": [], "facts": {}}
NUMBERS = {"loss": float("nan"), "learning_rate": 1e-4, "grad_norm": 1.0, "seconds": 0.5}
EVENTS: list[Event] = [
    RunStarted(0, 10, "a run", Path("out"), {"seed": 1}, PLAN, "abc"),
    StepTaken(1, NUMBERS, ((0.5, float("inf")),)),
    Evaluated(1, "eval", 2.0, {0.1: 1.0, 1: 2.0, 1e-3: 0.5}),
    Scored(1, {"clip/mean": 0.3}),
    PreviewDrawn(1, "cat", "a cat", (64, 32), 5, 20, 900.0, b"PNG"),
    PictureDrawn(1, Path("a.png"), "cat", "a cat", (64, 32), 42, 0, "", "base"),
    SheetDrawn(1, Path("grid.png"), "grid"),
    CheckpointSaved(1, Path("checkpoint-1")),
    MessageSaid(1, "warning", "a spike"),
    RunEnded(1, "finished", results=(Path("lora.safetensors"),)),
]


def started(step: int, run: str = "a") -> RunStarted:
    return RunStarted(step, 10, "a run", Path("out"), {}, PLAN, run)


def saved(step: int) -> CheckpointSaved:
    return CheckpointSaved(step, Path(f"checkpoint-{step}"))


class Kept:
    """A sink in memory."""

    def __init__(self, react: Callable[[Event], None] = lambda event: None) -> None:
        self.name, self.events, self.closed = "kept", list[Event](), 0
        self.react = react

    def receive(self, event: Event) -> None:
        self.events.append(event)
        self.react(event)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: NAMES[type(e)])
def test_the_json_form_of_every_event_fits_the_schema(event: Event) -> None:
    assert {type(e) for e in EVENTS} == NAMES.keys()
    form = as_json(event)
    json.dumps(form, allow_nan=False)
    checker("event").validate(form | {"time": 1.0})
    for key in form:
        assert not checker("event").is_valid({k: v for k, v in form.items() if k != key})


def test_the_file_holds_every_event_but_steps_and_the_bytes_of_previews(tmp_path: Path) -> None:
    sink = EventLines(tmp_path / "output" / "e", now=lambda: 5.0)
    for event in EVENTS:
        sink.receive(event)
    text = (tmp_path / "output" / "e").read_text()
    assert [line["event"] for line in read(tmp_path / "output" / "e")[0]] == [
        name for name in NAMES.values() if name != "step"
    ]
    assert "PNG" not in text and all(li.startswith('{"time": 5.0, ') for li in text.splitlines())


def test_a_resumed_run_voids_what_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "e"
    first = EventLines(path)
    for event in (started(0), saved(2), saved(4), RunEnded(5, "failed", "killed")):
        first.receive(event)
    second = EventLines(path)
    for event in (started(2), saved(4), RunEnded(6, "finished")):
        second.receive(event)
    left = [(e["event"], e["step"]) for e in standing(read(path)[0])]
    assert left == [("run.started", 0), ("checkpoint", 2), ("run.started", 2),
                    ("checkpoint", 4), ("run.ended", 6)]  # fmt: skip
    EventLines(path).receive(started(1, "a-12345678"))  # went back to step 1
    left = [(e["event"], e["step"]) for e in standing(read(path)[0])]
    assert left == [("run.started", 0), ("run.started", 1)]
    EventLines(path).receive(started(3, "b"))  # another run in the same folder
    assert [e["run"] for e in standing(read(path)[0])] == ["b"]


def test_a_line_that_a_kill_tore_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "e"
    EventLines(path).receive(started(0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert read(path)[1] == len(whole)  # a reader that follows the file waits for the rest
    EventLines(path).receive(saved(1))
    assert [e["event"] for e in read(path)[0]] == ["run.started", "checkpoint"]


def test_a_reader_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "e"
    assert read(path) == ([], 0)
    sink = EventLines(path)
    sink.receive(saved(1))
    _, end = read(path)
    sink.receive(saved(2))
    events, after = read(path, end)
    assert [e["step"] for e in events] == [2] and read(path, after) == ([], after)


def test_messages_and_previews_end_where_the_file_is_full(tmp_path: Path) -> None:
    sink = EventLines(tmp_path / "e", max_bytes=5000)
    for step in range(1000):
        sink.receive(MessageSaid(step, "warning", "again"))
        sink.receive(dataclasses.replace(EVENTS[4], step=step))
    size = (tmp_path / "e").stat().st_size
    assert 5000 < size < 5500
    sink.receive(saved(1000))
    assert read(tmp_path / "e")[0][-1]["event"] == "checkpoint"


@pytest.mark.parametrize("text", ["hello\n", '{"event": "x"}\n', "[]"])
def test_a_file_of_another_program_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "e").write_text(text)
    with pytest.raises(DiskError, match="does not hold events"):
        refuse_strangers(tmp_path / "e")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskError, match="is a symbolic link"):
        refuse_strangers(tmp_path / "link")
    for fine in ("", '{"tim'):
        (tmp_path / "e").write_text(fine)
        refuse_strangers(tmp_path / "e")


def test_lines_that_are_not_events_are_skipped(tmp_path: Path) -> None:
    bad = ["[]", "{}", '{"event": 1, "step": 2}', '{"event": "x", "step": "2"}', "[" * 9999, ""]
    long = "x" * (event_lines.MAX_LINE_BYTES + 10)
    good = json.dumps(as_json(saved(7)))
    (tmp_path / "e").write_text("\n".join([*bad, long, good]) + "\n")
    assert [e["step"] for e in read(tmp_path / "e")[0]] == [7]


def test_warnings_of_the_run_are_events_and_information_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept: list[Any] = []
    with emitted(lambda level, text: kept.append((level, text))):
        warn("a look at https://me:pw@host/a?token=1", "a detail")
    warn("after the run")
    assert kept == [("warning", "a look at https://host/a\na detail")]
    assert "warning: a look at" in capsys.readouterr().err


def test_a_sink_that_warns_of_each_event_does_not_warn_for_ever() -> None:
    kept = Kept(lambda event: warn("I do not like it"))
    stream = Stream([kept])
    with emitted(lambda level, text: stream.emit(MessageSaid(0, level, text))):
        stream.emit(saved(1))
    assert [type(e) for e in kept.events] == [CheckpointSaved, MessageSaid]


def test_a_sink_that_raises_is_closed_and_the_others_hear_of_it() -> None:
    def fails(event: Event) -> None:
        raise ValueError("no space")

    broken, kept = Kept(fails), Kept()
    with (
        streaming([broken, kept]) as stream,
        emitted(lambda level, text: stream.emit(MessageSaid(0, level, text))),
    ):
        stream.emit(saved(1))
        stream.emit(saved(2))
    assert len(broken.events) == 1 and broken.closed == 0 and kept.closed == 1
    (said,) = [e for e in kept.events if isinstance(e, MessageSaid)]
    assert "kept failed and gets nothing more; the run goes on: no space" in said.text


def test_events_of_several_threads_come_one_at_a_time() -> None:
    inside: list[int] = []

    def check(event: Event) -> None:
        inside.append(1)
        assert len(inside) == 1
        inside.pop()

    stream = Stream([kept := Kept(check)])
    threads = [
        threading.Thread(target=lambda: [stream.emit(saved(i)) for i in range(300)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.events) == 1200


SECRET = "value-that-nobody-may-see"


def test_settings_and_messages_lose_their_secrets() -> None:
    secrets = SecretValues.of({"HF_TOKEN": SECRET, "HOME": "/home/me", "WANDB_API_KEY": "1"})
    hook = f"https://example.com/hook?token={SECRET}"
    discord = "https://discord.com/api/webhooks/123/AbC-d_e"
    clean = secrets.settings(
        {"webhook_config": f'[{{"url": "{hook}"}}]', "seed": 1, "push_to_hub": True,
         "login": {"bearer_token": "short", "max": 3}, "model": f"https://me:{SECRET}@host/a",
         "webhook_reporting_interval": 5, "tokenizer_max_length": 77,
         "list": [f"x {SECRET} y", {"deep": f"hf_{SECRET}", "key": "k"}]}
    )  # fmt: skip
    assert clean == {
        "webhook_config": "…", "seed": 1, "push_to_hub": True,
        "login": {"bearer_token": "…", "max": 3}, "model": "https://host/a",
        "webhook_reporting_interval": 5, "tokenizer_max_length": 77,
        "list": ["x … y", {"deep": "…", "key": "…"}],
    }  # fmt: skip
    said = secrets.text(f"{discord} and {hook} with Bearer abcdefgh12345 and AKIAABCDEFGHIJKLMNOP")
    assert said == (
        "https://discord.com/api/webhooks/… and https://example.com/hook with Bearer … and …"
    )


def waits_for(check: Callable[[], bool]) -> None:
    for _ in range(2000):
        if check():
            return
        time.sleep(0.005)
    raise AssertionError("it never happened")


def test_a_queued_sink_delivers_in_order_and_only_what_it_takes() -> None:
    kept = Kept()
    sink = QueuedSink("slow", lambda: kept, (CheckpointSaved,))
    for step in range(50):
        sink.receive(saved(step))
        sink.receive(RunEnded(step, "finished"))
    sink.close()
    assert [e.step for e in kept.events] == list(range(50)) and kept.closed == 1


def test_what_a_queued_sink_raises_closes_it_and_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails() -> Kept:
        raise OSError("no such server")

    with streaming([QueuedSink("slow", fails, (CheckpointSaved,))]) as stream:
        waits_for(lambda: stream.emit(saved(1)) or "no such server" in capsys.readouterr().err)
        stream.emit(saved(2))
    assert "no such server" not in capsys.readouterr().err
    with streaming([QueuedSink("slow", fails, (CheckpointSaved,))]):
        pass
    assert "slow failed at its end: no such server" in capsys.readouterr().err


def test_a_sink_that_hangs_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    hung = threading.Event()

    def hangs(event: Event) -> None:
        hung.wait()

    slow = Kept(hangs)
    sink = QueuedSink("slow", lambda: slow, (CheckpointSaved,), size=3, close_seconds=0.05)
    with streaming([sink]) as stream:
        for step in range(10):
            stream.emit(saved(step))
        waits_for(lambda: len(slow.events) == 1)
    said = capsys.readouterr().err
    assert said.count("warning: ") == 2 and sink.lost >= 6
    assert "slow is too slow: it misses events from step" in said
    assert "slow failed at its end: it was not done within 0.05 s" in said
    hung.set()
