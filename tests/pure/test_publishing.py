"""Publishing a run: what goes up, what a hub that fails leaves, and what is refused before."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd3tune.errors import ConfigError, DataError, PublishError
from sd3tune.formats import file_metadata, manifest
from sd3tune.publish import card, publication, published_files, receipt
from sd3tune.publish.checkpoint_uploads import MOST_WAITING, CheckpointUploads, in_background
from sd3tune.publish.login import Destination, destination
from sd3tune.publish.receipt import Receipt
from sd3tune.publish.uploading import Patience
from sd3tune.report.events import CheckpointSaved, RunEnded
from sd3tune.report.stream import Sink, streaming
from tests import safetensors_files
from tests.commands import exit_code
from tests.loopback_hub import FINE, READ, WRITE, LoopbackHub, Repository, loopback_hub
from tests.plans import plan

# httpx2 2.16 warns huggingface_hub 2.4 of its own argument. Look again at huggingface_hub 2.5.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
QUICK = Patience(attempts=2, first_wait_seconds=0.01, longest_wait_seconds=0.01)
RESULT = "pytorch_lora_weights.safetensors"
PICTURE = "validation_images/step_4_a%20cat_0_64x64.png"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch) as running:
        yield running


def my_cat() -> Destination:
    return destination("my-cat", private=True)


def adapter(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {file_metadata.STEP: str(step)}
    safetensors_files.write(path, {"a.lora_A.weight": [1, step]}, metadata=metadata)


def checkpoint(output: Path, step: int) -> Path:
    """As a run writes it: state that only training needs, and the adapter beside it."""
    folder = output / f"checkpoint-{step}"
    adapter(folder / RESULT, step)
    for name in manifest.REQUIRED:
        (folder / name).write_bytes(b"only for training")
    listed = dict.fromkeys(manifest.REQUIRED, "x")
    (folder / manifest.MANIFEST).write_text(json.dumps(listed))
    settings = {"config": {"hub_model_id": "my-cat", "output_name": None}}
    (folder / "plan.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder of a finished run, with much that is nobody's business."""
    folder = tmp_path / "output"
    adapter(folder / RESULT, 4)
    adapter(folder / "last" / RESULT, 4)
    checkpoint(folder, 2)
    for name in ("validation_images/step_4_a cat_0_64x64.png", "validation_images/private.png",
                 "cache/vae/shards/x.safetensors", "metrics.jsonl", "notes.txt"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    safetensors_files.write(folder / "somebody_else.safetensors", {"a": [1]})
    (folder / card.SETTINGS).write_text("{}")
    page = f"---\nlicense: other\n---\n{card.MARK}\n![x]({PICTURE})\n![y](../secret.png)\n"
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / card.FILE).write_text(
        page + '```python\nweights = "."  # the folder of this card\n```\n'
    )
    return folder


UPLOADED = {RESULT, f"last/{RESULT}", card.SETTINGS, card.FILE,
            "validation_images/step_4_a cat_0_64x64.png"}  # fmt: skip


def test_only_files_of_the_result_go_up_and_once(hub: LoopbackHub, output: Path) -> None:
    to = my_cat()
    assert (to.repository, to.exists) == ("me/my-cat", False)
    done = publication.publish(output, to, patience=QUICK)
    assert done.files == 5 and done.sentence == f"published 5 files at {hub.address}/me/my-cat"
    held = hub.repositories["me/my-cat"]
    assert held.private and held.files.keys() == UPLOADED
    assert held.files[RESULT] == (output / RESULT).read_bytes()
    assert b'\nweights = "me/my-cat"\n' in held.files[card.FILE]
    before = len(hub.asked)
    again = publication.publish(output, to, patience=QUICK)
    assert again.files == 0 and "already" in again.sentence and len(hub.asked) == before
    adapter(output / RESULT, 5)  # the run went on
    assert publication.publish(output, destination("my-cat", private=True)).files == 1
    assert len(held.commits) == 2


def test_a_public_repository_is_made_only_where_the_settings_say_so(
    hub: LoopbackHub, output: Path
) -> None:
    publication.publish(output, destination("friends/shared", private=False), patience=QUICK)
    assert not hub.repositories["friends/shared"].private
    kept = destination("friends/shared", private=True)  # one that exists keeps its visibility
    assert kept.exists and not kept.private and kept.shown.endswith("(public)")


@pytest.mark.parametrize(
    "fault",
    [{"POST .*/commit/": [503, 500]}, {"POST .*/commit/": ["cut", "cut"]},
     {"POST .*/preupload/": [403]},
     {"POST /api/repos/create": [500, "cut"]}],
    ids=str,
)  # fmt: skip
def test_an_upload_that_fails_is_not_reported_as_done_and_is_resumed(
    hub: LoopbackHub, output: Path, fault: dict[str, list[int | str]]
) -> None:
    hub.faults |= fault
    to = my_cat()
    with pytest.raises(PublishError) as e:
        publication.publish(output, to, patience=QUICK)
    assert WRITE not in str(e.value) and "same command" in e.value.hint
    assert not any(r.files for r in hub.repositories.values())
    assert not (output / receipt.FILE).exists()
    stored = len(hub.stored)
    assert publication.publish(output, to, patience=QUICK).files == 5
    assert hub.repositories["me/my-cat"].files.keys() == UPLOADED
    sent = [line for line in hub.asked if line.startswith("PUT /lfs/")]
    assert len(sent) == len(hub.stored) == 2 and stored in (0, 2)  # bytes go up once


def test_a_cut_in_the_middle_of_the_weights_is_tried_again(hub: LoopbackHub, output: Path) -> None:
    hub.faults["PUT /lfs/"] = ["cut"]
    to = my_cat()
    assert publication.publish(output, to, patience=QUICK).files == 5
    assert hub.repositories["me/my-cat"].files[RESULT] == (output / RESULT).read_bytes()


def test_the_token_is_nowhere_in_what_is_kept_or_uploaded(hub: LoopbackHub, output: Path) -> None:
    publication.publish(output, my_cat(), patience=QUICK)
    kept = [path.read_bytes() for path in output.rglob("*") if path.is_file()]
    assert not any(WRITE.encode() in data for data in [*kept, *hub.stored.values()])
    assert not any(WRITE.encode() in d for d in hub.repositories["me/my-cat"].files.values())


@pytest.mark.parametrize(
    "name, token, words",
    [("x", "", "you are not logged in"), ("x", READ, "may only read"), ("x", FINE, "may only read"),
     ("x", "hf_wrong", "refuses the token"), ("stranger/x", WRITE, "in the namespace of stranger"),
     ("me/locked", WRITE, "may not write into")],
)  # fmt: skip
def test_a_login_that_may_not_write_is_refused_with_what_to_do(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, token: str,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", token)
    hub.repositories["me/locked"] = Repository(True)
    hub.forbidden.add("me/locked")
    with pytest.raises(ConfigError, match=words) as e:
        destination(name, private=True)
    assert "push_to_hub=true" in str(e.value) and (not token or token not in str(e.value))
    assert "hf auth login" in e.value.hint or "hub_model_id" in e.value.hint
    assert not any(line.startswith("POST") for line in hub.asked)


def test_a_hub_that_is_gone_is_one_error_with_a_way_on(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be reached") as e:
        destination("x", private=True)
    assert "sd3tune publish" in e.value.hint


def test_a_checkpoint_goes_up_without_its_optimizer(hub: LoopbackHub, output: Path) -> None:
    assert [f.name for f in published_files.files_of_checkpoint(output / "checkpoint-2")] == [
        f"checkpoint-2/{RESULT}"
    ]
    to = my_cat()
    assert publication.publish(output, to, checkpoints=True, patience=QUICK).files == 6
    assert f"checkpoint-2/{RESULT}" in hub.repositories["me/my-cat"].files


@pytest.mark.parametrize("background", [True, False])
def test_checkpoints_are_uploaded_while_the_run_goes_on(
    hub: LoopbackHub, output: Path, background: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def build() -> CheckpointUploads:
        return CheckpointUploads(my_cat, output, [output / "checkpoint-2"], QUICK)

    sink: Sink = in_background(build) if background else build()
    sink.receive(CheckpointSaved(3, checkpoint(output, 3)))
    if not background:  # training waits for it
        assert f"checkpoint-3/{RESULT}" in hub.repositories["me/my-cat"].files
    sink.receive(CheckpointSaved(4, output / "checkpoint-4"))  # pruned before its turn
    sink.receive(RunEnded(4, "finished"))
    sink.close()
    there = {f"checkpoint-2/{RESULT}", f"checkpoint-3/{RESULT}"}
    assert hub.repositories["me/my-cat"].files.keys() == there
    said = capsys.readouterr().err
    assert "uploaded checkpoint-2" in said and "checkpoint-4 is not uploaded: it is gone" in said


def test_a_dead_hub_holds_up_no_step_and_what_waits_is_bounded(
    hub: LoopbackHub, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults["POST /api/repos/create"] = [500] * 99
    slow = Patience(attempts=3, first_wait_seconds=1, longest_wait_seconds=1)
    sink = in_background(lambda: CheckpointUploads(my_cat, output, (), slow), close_seconds=0.1)
    folder = checkpoint(output, 10)
    with streaming([sink]) as stream:
        for step in range(MOST_WAITING + 5):
            stream.emit(CheckpointSaved(step, folder))
    assert sink.lost >= 4 and "the run goes on" in capsys.readouterr().err
    assert hub.repositories == {}
    hub.faults.clear()
    for thread in threading.enumerate():  # it speaks to no hub of another test
        if thread.name == f"sink {sink.name}":
            thread.join()
    assert f"checkpoint-10/{RESULT}" in hub.repositories["me/my-cat"].files


def test_a_hub_that_is_gone_when_the_run_begins_uploads_no_checkpoint_and_stops_nothing(
    hub: LoopbackHub, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults["GET /api/whoami-v2"] = [500]
    sink = CheckpointUploads(my_cat, output, [output / "checkpoint-2"], QUICK)
    sink.receive(CheckpointSaved(2, output / "checkpoint-2"))
    assert "checkpoints are uploaded when the run has ended" in capsys.readouterr().err
    assert hub.repositories == {}


def test_publish_shows_files_and_card_before_and_uploads_after(
    hub: LoopbackHub, output: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(["publish", str(output), "--dry-run"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "repository  my-cat" in shown and RESULT in shown and "license: other" in shown
    assert "private.png" not in shown and hub.asked == []
    assert exit_code(["publish", str(output), "--public"], monkeypatch) == 0
    assert not hub.repositories["me/my-cat"].private
    assert f"published 5 files at {hub.address}/me/my-cat" in capsys.readouterr().out
    hub.faults["GET /api/whoami-v2"] = [500]
    assert exit_code(["publish", str(output), "--to", "other"], monkeypatch) == 1
    said = capsys.readouterr()
    assert "published" not in said.out and "error: `sd3tune publish`" in said.err


@pytest.mark.parametrize(
    "words, said",
    [(["--to", "a/b/c"], "must be `name`"), (["--to", "https://hf.co/a/b"], "is an address")],
)  # fmt: skip
def test_a_name_that_no_hub_takes_is_refused(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], said: str,
) -> None:  # fmt: skip
    assert exit_code(["publish", str(output), *words], monkeypatch) == 1
    assert said in capsys.readouterr().err


def test_a_folder_without_a_result_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no result"):
        published_files.files_of_run(tmp_path, "me/x")


def test_the_receipt_is_believed_for_the_same_hub_and_the_same_bytes_only(
    hub: LoopbackHub, output: Path
) -> None:
    files: list[Any] = published_files.files_of_run(output, "me/x")
    kept = Receipt(output, "https://a/me/x")
    kept.keep([(f, receipt.fingerprint(f)) for f in files])
    assert Receipt(output, "https://a/me/x").missing(files) == []
    assert len(Receipt(output, "https://b/me/x").missing(files)) == 5
    (output / receipt.FILE).write_text('{"published": 3}')
    assert len(Receipt(output, "https://a/me/x").missing(files)) == 5


@pytest.mark.parametrize(
    "settings, name",
    [({"hub_model_id": "me/a", "output_name": "b"}, "me/a"),
     ({"tracker_project_name": "my project", "output_name": "b"}, "my-project"),
     ({"output_name": "Katze-süß v1.2"}, "Katze-s-v1.2"), ({}, "")],
)  # fmt: skip
def test_a_repository_has_the_name_that_the_settings_give_it(
    settings: dict[str, Any], name: str
) -> None:
    publishing = plan("h100-sxm", **settings).publishing
    assert publishing.repository == name
