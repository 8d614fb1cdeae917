"""Webhooks of runs on other machines become folders of runs, and can do nothing else."""

import base64
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune.live.receiving import MAX_BODY_BYTES, folder_name, safe
from sd3tune.live.run_reader import RunReader
from sd3tune.report.events import Event, PictureDrawn, PreviewDrawn, StepTaken, as_json
from sd3tune.webhooks.outbox import Parcel
from sd3tune.webhooks.raw import payload
from tests.live_runs import TOKEN, Answer, Served, served, started


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def message(event: Any, *images: bytes, job: str = "r1") -> bytes:
    encoded = [base64.b64encode(image).decode() for image in images]
    return json.dumps({"version": 1, "job_id": job, "event": event, "images": encoded}).encode()


def posted(event: Event) -> bytes:
    """What a raw webhook of a run sends."""
    return json.dumps(payload(Parcel(event, datetime.now(UTC)), "r1")).encode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "received"


@pytest.fixture
def site(place: Path) -> Iterator[Served]:
    with served(receive=place) as page:
        yield page


def send(site: Served, body: bytes, **headers: str) -> Answer:
    return site.ask("/receive", "POST", body=body, **(headers or {"x_api_key": TOKEN}))


def sections(place: Path, job: str = "r1") -> dict[str, Any]:
    run = RunReader(place / folder_name(job))
    run.refresh()
    return run.sections | {"rows": list(run.curves.columns["step"])}


def test_a_run_on_another_machine_is_kept_as_a_run(
    site: Served, place: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "output/validation_images/step_5_cat_0_8x8.png"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(png())
    drawn = PictureDrawn(5, elsewhere, "cat", "a cat", (8, 8), 3, 0, "ema")
    preview = PreviewDrawn(6, "cat", "a cat", (8, 8), 2, 4, 500.0, png())
    assert send(site, message(started(steps=10))).status == 204
    for step in range(1, 6):
        assert send(site, posted(StepTaken(step, {"loss": 1 / step}))).status == 204
    assert send(site, posted(drawn)).status == 204
    bearer = f"Bearer {TOKEN}"
    assert send(site, posted(preview), authorization=bearer).status == 204
    shown = sections(place)
    assert shown["rows"] == [1, 2, 3, 4, 5]
    about = shown["about"]
    assert (about["name"], about["state"], about["step"], about["can_stop"]) == (
        "tiny-cats", "running", 5, False)  # fmt: skip
    (kept,) = shown["pictures"]
    assert (kept["path"], kept["prompt"], kept["weights"]) == (
        "validation_images/ema/step_5_cat_0_8x8.png", "a cat", "ema")  # fmt: skip
    assert shown["previews"][0]["sampling_step"] == 2
    for path in (kept["path"], shown["previews"][0]["path"]):
        assert site.ask(f"/runs/0/image/{path}").body == png()


def test_steps_that_a_continued_run_repeats_are_shown_once(site: Served, place: Path) -> None:
    send(site, message(started()))
    for step in (1, 2, 3):
        send(site, message(as_json(StepTaken(step, {"loss": 1.0}))))
    send(site, message(started(1)))
    for step in (2, 3, 4):
        send(site, message(as_json(StepTaken(step, {"loss": 2.0}))))
    assert sections(place)["rows"] == [1, 2, 3, 4]


def test_messages_of_another_program_are_kept_as_words(site: Served, place: Path) -> None:
    sent = {"type": "training.status", "message": "step 7", "data": {"current": 7}}
    sent |= {"job_id": "other", "severity": "warning", "timestamp": "2026-01-01T00:00:00"}
    assert send(site, json.dumps(sent).encode()).status == 204
    (line,) = sections(place, "other")["log"]
    assert (line["step"], line["level"], line["text"]) == (7, "warning", "step 7")


@pytest.mark.parametrize(
    "headers",
    [
        {"x_none": ""},
        {"x_api_key": "wrong"},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"x_api_key": TOKEN, "origin": "https://evil.example"},
    ],
)
def test_only_who_has_the_token_may_send_and_no_browser_may(
    site: Served, place: Path, headers: dict[str, Any]
) -> None:
    assert send(site, message(started()), **headers).status == 403
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "body, status",
    [
        (b"not JSON", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (message({"event": "step"}), 422),
        (message({"event": 3, "step": 1}), 422),
        (message({"event": "step", "step": -1}), 422),
        (message({"event": "picture", "step": 1, "path": "a.png"}, b"GIF89a, no"), 422),
        (message({"event": "picture", "step": 1, "path": "evil.html"}, png()), 422),
        (b'{"event": {"event": "picture", "step": 1}, "images": ["%%%"]}', 422),
        (b'{"event": {"event": "picture", "step": 1}, "images": [7]}', 422),
    ],
)
def test_what_is_no_message_of_a_run_is_refused_with_a_reason(
    site: Served, body: bytes, status: int
) -> None:
    answer = send(site, body)
    assert answer.status == status and answer.json["error"]


def test_a_message_without_an_end_is_cut_off(site: Served, place: Path) -> None:
    answer = send(site, b" " * (MAX_BODY_BYTES + 1))
    assert answer.status == 413 and list(place.iterdir()) == []


@pytest.mark.parametrize(
    "job, path, weights",
    [
        ("../../escape", "validation_images/step_1_cat_0_8x8.png", ""),
        ("/etc", "../../../../tmp/step_1_cat_0_8x8.png", "../.."),
        ("..", "/etc/step_1_cat_0_8x8.png", ".."),
        ("a\0b", "..\\..\\step_1_cat_0_8x8.png", "/"),
        (".hidden", "http://169.254.169.254/step_1_cat_0_8x8.png", "a/b/c"),
        ("\ud800", "file:///etc/step_1_cat_0_8x8.png", "\u202e"),
    ],
)
def test_no_name_in_a_message_leads_out_of_the_folder(
    site: Served, place: Path, job: str, path: str, weights: str
) -> None:
    event = {"event": "picture", "step": 1, "path": path, "shortname": "cat", "weights": weights}
    assert send(site, message(event, png(), job=job)).status == 204
    files = [each for each in place.parent.rglob("*") if each.is_file()]
    assert len(files) == 2, "events.jsonl and the picture"
    for each in files:
        run, *below = each.relative_to(place).parts
        assert run == folder_name(job) and not run.startswith(".")
        assert below == ["events.jsonl"] or below[0] == "validation_images"


def test_names_of_files_are_made_of_harmless_characters() -> None:
    assert safe("../..\\x\0y.png") == "_.._x_y.png"
    assert safe("...") == safe("") == "_"
    assert folder_name("a/b") != folder_name("a_b"), "two runs never share a folder"


def test_runs_that_were_received_before_are_shown_again(place: Path) -> None:
    with served(receive=place) as site:
        send(site, message(started()))
    with served(receive=place) as site:
        send(site, message(as_json(StepTaken(1, {"loss": 1.0}))))
    assert sections(place)["rows"] == [1]
    assert len(list(place.iterdir())) == 1


def test_nothing_is_received_unless_it_was_asked_for(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        assert send(site, message(started())).status == 404
