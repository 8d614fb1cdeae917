"""What trackers hold of a run, read back from their own files: TensorBoard by its own reader, the
records of Weights & Biases by its own messages, Trackio's database by SQL."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sd3tune.report.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    MessageSaid,
    PictureDrawn,
    RunEnded,
    RunStarted,
    Scored,
    SheetDrawn,
    StepTaken,
)
from sd3tune.report.metrics import Metrics
from sd3tune.report.tracker_sink import Backend, TrackedRun, TrackerSink
from sd3tune.report.trackers import wandb_files
from sd3tune.report.trackers.tensorboard_files import TensorBoard
from sd3tune.report.trackers.trackio_run import Trackio
from sd3tune.report.trackers.wandb_run import Wandb

Layout = Literal["gallery", "table"]
Rows = list[tuple[int, str, Any]]  # step, key, value
TRACKIO_DIR = "TRACKIO_DIR"  # read when trackio is imported


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the libraries keep what is not of a run."""
    folder = tmp_path_factory.mktemp("libraries")
    names = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", TRACKIO_DIR)
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, os.environ.get(name, str(folder / name)))
        yield folder


class Told:
    """A tracker and the folder of its run."""

    def __init__(self, opened: Callable[[TrackedRun], Backend], folder: Path) -> None:
        self.opened, self.folder = opened, folder

    def tell(
        self, events: Iterable[Event], run: str, layout: Layout = "gallery", step: int = 0
    ) -> None:
        def begin(event: RunStarted) -> Backend:
            return self.opened(
                TrackedRun("cats", "first", run, event.step, self.folder, layout, False,
                           event.settings)
            )  # fmt: skip

        log = self.folder / "metrics.jsonl"
        sink = TrackerSink("it", begin, lambda step: 1 + step // 3, log)
        settings = {"seed": 1, "learning_rate": 1e-4}
        sink.receive(RunStarted(step, 8, "first", self.folder, settings, {}, run))
        for event in events:
            sink.receive(event)
        sink.close()
        while self.opened is Wandb and not written(self.folder):
            time.sleep(0.02)

    def read(self, run: str) -> Rows:
        return READERS[self.opened](self.folder, run)

    def curve(self, run: str, key: str) -> list[tuple[int, float]]:
        return [(step, round(value, 4)) for step, name, value in self.read(run) if name == key]


def of_tensorboard(folder: Path, run: str) -> Rows:
    (path,) = (folder / "tensorboard").glob(f"first-{run[-8:]}")
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    seen = EventAccumulator(str(path), size_guidance=sizes)
    seen.Reload()
    rows: Rows = []
    tags = seen.Tags()
    rows += [(e.step, tag, e.value) for tag in tags["scalars"] for e in seen.Scalars(tag)]
    rows += [(e.step, tag, (e.width, e.height)) for tag in tags["images"] for e in seen.Images(tag)]
    for tag in tags["tensors"]:
        texts = ((e.step, e.tensor_proto.string_val[0].decode()) for e in seen.Tensors(tag))
        rows += [(step, tag.removesuffix("/text_summary"), text) for step, text in texts]
    return rows


def of_wandb(folder: Path, run: str) -> Rows:
    rows: Rows = []
    for file in sorted((folder / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb")):
        for record in wandb_files.records(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                rows += [(record.history.step.num, k, v) for k, v in row(record).items()]
            elif kind == "run":
                assert record.run.run_id == run and record.run.project == "cats"
                rows += [(0, f"settings.{c.key}", json.loads(c.value_json))
                         for c in record.run.config.update]  # fmt: skip
    return rows


def row(record: Any) -> dict[str, Any]:
    """Of a step; what wandb stores of a picture is a dictionary."""
    values: dict[str, Any] = {}
    for item in record.history.item:
        key, *deeper = item.nested_key
        if deeper:
            values.setdefault(key, {})[deeper[0]] = json.loads(item.value_json)
        elif not key.startswith("_"):
            values[key] = json.loads(item.value_json)
    return values


def written(folder: Path) -> bool:
    """Whether the library's own process has written the end of each run."""
    return all(
        any(r.WhichOneof("record_type") == "exit" for r in wandb_files.records(file))
        for file in (folder / "wandb").glob("offline-run-*/run-*.wandb")
    )


def of_trackio(folder: Path, run: str) -> Rows:
    with sqlite3.connect(Path(os.environ[TRACKIO_DIR]) / "cats.db") as database:
        name = f"first-{run[-8:]}"
        found = database.execute("select step, metrics from metrics where run_name=?", (name,))
        rows = [(step, key, value) for step, text in found for key, value in
                json.loads(text).items()]  # fmt: skip
        found = database.execute("select config from configs where run_name=?", (name,))
        settings = json.loads(next(found)[0])
    return [*rows, *((0, f"settings.{key}", value) for key, value in settings.items())]


READERS: dict[Any, Callable[[Path, str], Rows]] = {
    TensorBoard: of_tensorboard, Wandb: of_wandb, Trackio: of_trackio,
}  # fmt: skip


@pytest.fixture(params=list(READERS), ids=lambda kind: kind.__name__)
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Told:
    return Told(request.param, tmp_path)


def taken(step: int) -> StepTaken:
    numbers = {"loss": step / 4, "learning_rate": 1e-4, "grad_norm": float("inf"),
               "weight_norm": 2.0, "tokens": 9, "seconds": 0.5, "spike": None}  # fmt: skip
    return StepTaken(step, numbers, ((0.5, step / 4),))


def drawn(
    folder: Path, step: int, name: str, size: tuple[int, int], weights: str = ""
) -> PictureDrawn:
    path = folder / f"{step}_{name}_{size[0]}{weights}.png"
    Image.new("RGB", size, "blue" if weights else "red").save(path)
    return PictureDrawn(step, path, name, f"a photo of {name}", size, 42, 0, weights)


def story(folder: Path) -> Iterator[Event]:
    for step in (1, 2):
        yield taken(step)
    yield CheckpointSaved(2, folder / "checkpoint-2")
    yield Evaluated(2, "eval", 3.5, {0.1: 3.0, 0.5: float("nan")})
    yield drawn(folder, 2, "cat", (16, 8))
    yield drawn(folder, 2, "cat", (8, 8))
    yield drawn(folder, 2, "cat", (8, 8), "base")
    yield drawn(folder, 2, "dog", (8, 8))
    yield Scored(2, {"clip/mean": 0.25})
    yield MessageSaid(2, "warning", "a spike")
    yield taken(3)
    yield RunEnded(3, "finished")
    yield drawn(folder, 3, "cat", (8, 8))  # at the end, after which nothing follows
    yield SheetDrawn(3, drawn(folder, 3, "grid", (8, 8)).path, "grid")


def test_a_tracker_holds_curves_scores_and_settings_under_the_names_people_know(
    told: Told,
) -> None:
    told.tell(story(told.folder), "a" * 32)
    curve = {key: told.curve("a" * 32, key) for key in
             ("train_loss", "learning_rate", "epoch", "grad_norm", "step_seconds", "loss/val/eval",
              "loss/val/eval/0.1", "loss/val/eval/0.5", "clip/mean")}  # fmt: skip
    assert curve["train_loss"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert curve["learning_rate"] == [(1, 1e-4), (2, 1e-4), (3, 1e-4)]
    assert curve["epoch"] == [(1, 1), (2, 1), (3, 2)] and curve["grad_norm"] == []
    assert curve["step_seconds"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert curve["loss/val/eval"] == [(2, 3.5)] and curve["loss/val/eval/0.1"] == [(2, 3.0)]
    assert curve["loss/val/eval/0.5"] == [] and curve["clip/mean"] == [(2, 0.25)]
    rows = told.read("a" * 32)
    if told.opened is TensorBoard:
        (settings,) = [value for _, key, value in rows if key == "settings"]
        assert '"seed": 1' in settings and (2, "messages/warning", "a spike") in rows
    else:
        assert (0, "settings.seed", 1) in rows


def test_pictures_are_side_by_side_for_each_prompt(told: Told) -> None:
    told.tell(story(told.folder), "b" * 32)
    keys = {(step, key) for step, key, _ in told.read("b" * 32) if "validation/" in key}
    if told.opened is TensorBoard:
        assert keys == {(2, "validation/cat/16x8"), (2, "validation/cat/8x8"),
                        (2, "validation/cat/8x8/base"), (2, "validation/dog/8x8"),
                        (3, "validation/cat/8x8")}  # fmt: skip
        sizes = [v for _, key, v in told.read("b" * 32) if key == "validation/cat/16x8"]
        assert sizes == [(16, 8)]
    elif told.opened is Trackio:
        assert keys == {(2, "validation/cat/16x8"), (2, "validation/cat/8x8/0"),
                        (2, "validation/cat/8x8/1"), (2, "validation/dog/8x8"),
                        (3, "validation/cat/8x8")}  # fmt: skip
    else:
        shown = {(step, key): value for step, key, value in told.read("b" * 32)}
        assert shown[2, "validation/cat/8x8"]["count"] == 2
        assert shown[2, "validation/dog/8x8"]["captions"] == ["a photo of dog (8x8, seed 42)"]
        assert shown[3, "validation/cat/8x8"]["count"] == 1
        assert len(list(told.folder.rglob("media/images/validation/**/*.png"))) == 5
    assert any(step == 3 and key == "sheets/grid" for step, key, _ in told.read("b" * 32))


def test_pictures_are_a_table_of_all_prompts(told: Told) -> None:
    told.tell(story(told.folder), "c" * 32, layout="table")
    found = {step: value for step, key, value in told.read("c" * 32) if key == "validation"}
    assert set(found) == {2, 3}
    if told.opened is TensorBoard:
        assert "| cat | a photo of cat (16x8, seed 42) | 2_cat_16.png |" in found[2]
    elif told.opened is Trackio:
        assert [row["prompt"] for row in found[2]["_value"]] == (
            ["a photo of cat"] * 3 + ["a photo of dog"]
        )
    else:
        assert found[2]["_type"] == "table-file" and found[2]["nrows"] == 4


def test_a_resumed_run_has_each_point_once(told: Told) -> None:
    """Killed after step 6, continued from 4: the steps after 4 are trained again."""
    log = Metrics(told.folder / "metrics.jsonl", 0)
    for step in range(1, 7):
        log.write(step, dict(taken(step).numbers), [(0.5, 1.0)])
    told.tell(map(taken, range(1, 7)), "d" * 32)
    if told.opened is Wandb:
        time.sleep(1.0)  # the name of its folder has the second
    told.tell(map(taken, range(5, 9)), "d" * 32, step=4)
    assert told.curve("d" * 32, "train_loss") == [(n, n / 4) for n in range(1, 9)]


def test_what_a_tracker_lacks_of_a_resumed_run_is_read_from_the_log(told: Told) -> None:
    """As when report_to is set for the rest of a run, or a kill lost what was not written yet."""
    log = Metrics(told.folder / "metrics.jsonl", 0)
    for step in range(1, 7):
        log.write(step, dict(taken(step).numbers), [(0.5, 1.0)])
    told.tell(map(taken, range(5, 9)), "e" * 32, step=4)
    assert told.curve("e" * 32, "train_loss") == [(n, n / 4) for n in range(1, 9)]
    assert told.curve("e" * 32, "epoch") == [(n, 1 + n // 3) for n in range(1, 9)]


@pytest.mark.slow
def test_a_server_that_does_not_answer_leaves_the_run_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", key)
    run = TrackedRun("cats", "first", "g" * 32, 0, tmp_path, "gallery", True, {})
    opened = Wandb(run, init_seconds=5)
    opened.numbers(1, {"train_loss": 0.25})
    opened.finish(failed=False)
    while not written(tmp_path):
        time.sleep(0.02)
    assert (1, "train_loss", 0.25) in of_wandb(tmp_path, "g" * 32)
    said = capsys.readouterr().err
    assert "warning: wandb cannot be reached" in said
    assert f"`wandb sync {tmp_path}/wandb/offline-run-*` sends it" in " ".join(said.split())
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]


def test_a_torn_file_of_weights_and_biases_is_read_up_to_the_tear(tmp_path: Path) -> None:
    told = Told(Wandb, tmp_path)
    told.tell(map(taken, range(1, 900)), "f" * 32)  # several blocks of the file
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    whole = file.read_bytes()
    assert len(whole) > 3 * wandb_files.BLOCK_BYTES
    assert wandb_files.newest_step(tmp_path / "wandb", "f" * 32) == 899
    file.write_bytes(whole[: len(whole) // 2])
    assert 400 < wandb_files.newest_step(tmp_path / "wandb", "f" * 32) < 500
    file.write_bytes(whole[:7])
    assert wandb_files.newest_step(tmp_path / "wandb", "f" * 32) == -1
    assert wandb_files.newest_step(tmp_path / "elsewhere", "f" * 32) == -1
