"""A run with every tracker, with one that raises and one that hangs, beside a run without any."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sd3tune.report.event_lines import read
from sd3tune.report.metrics import lines
from sd3tune.report.tracker_sink import TrackedRun
from sd3tune.report.trackers import wandb_files
from sd3tune.report.trackers.tensorboard_files import TensorBoard
from sd3tune.tables.libraries import LIBRARIES
from sd3tune.tables.trackers import TRACKERS, Tracker
from tests.cpu.conftest import Train

SHORT = ("max_train_steps=4", "lr_warmup_steps=0", "checkpoint_step_interval=2")
SECRETS = {
    "HF_TOKEN": "hf_planted1234567890",
    "WANDB_API_KEY": "planted" + "0123456789abcdef" * 2 + "x",
    "AWS_SECRET_ACCESS_KEY": "planted/key+of/a/bucket",
    "TEAM_WEBHOOK": "https://hooks.example.com/services/in?token=planted-in-the-query",
}


class Raises(TensorBoard):
    """An error of a library that shows whatever it was given."""

    def numbers(self, step: int, values: object) -> None:
        raise RuntimeError(f"cannot send with {' and '.join(SECRETS.values())}")


class Hangs(TensorBoard):
    """Opens only when the run has written its result: nobody may wait for it before."""

    def __init__(self, run: TrackedRun) -> None:
        while not (run.folder.parent / "pytorch_lora_weights.safetensors").exists():
            time.sleep(0.02)
        super().__init__(run)


def tracker(name: str, kind: type[TensorBoard]) -> Tracker:
    return Tracker(name, LIBRARIES["pillow"], f"{__name__}:{kind.__name__}", "", "")


def losses(output: Path) -> list[float]:
    return [line.row["loss"] for line in lines(output / "metrics.jsonl") if line.row]


@pytest.mark.slow
def test_no_tracker_changes_a_run_and_none_learns_a_secret(
    run: Train,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
    monkeypatch.setenv("WANDB_MODE", "offline")
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    run(*SHORT, f"output_dir={quiet}")
    capsys.readouterr()
    names = "report_to=tensorboard,wandb,trackio,raises,hangs"
    with TRACKERS.extended(tracker("raises", Raises), tracker("hangs", Hangs)):
        run(*SHORT, f"output_dir={loud}", names, "tracker_project_name=cats",
            "tracker_run_name=first", "logging_dir=own", "validation_disable=false",
            "validation_num_inference_steps=1", "validation_resolution=64x64")  # fmt: skip
    assert losses(loud) == losses(quiet) and len(losses(loud)) == 4
    one, other = (load_file(p / "pytorch_lora_weights.safetensors") for p in (quiet, loud))
    assert all(torch.equal(one[key], other[key]) for key in one | other)

    said = capsys.readouterr().err
    assert said.count("raises failed and gets nothing more; the run goes on: cannot send") == 1
    events = read(loud / "events.jsonl")[0]
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [2, 4]
    assert [e["outcome"] for e in events if e["event"] == "run.ended"] == ["finished"]
    (told,) = [e for e in events if e["event"] == "message" and "raises" in e["text"]]
    assert told["text"].endswith("cannot send with … and … and … and …")
    run_id, settings = events[0]["run"], events[0]["settings"]
    assert events[0]["name"] == "first" and settings["report_to"][:2] == ["tensorboard", "wandb"]

    (folder,) = (loud / "own" / "tensorboard").glob(f"first-{run_id[-8:]}")
    seen = EventAccumulator(str(folder))
    seen.Reload()
    assert {e.step for e in seen.Scalars("train_loss")} == {1, 2, 3, 4}
    assert any(tag.startswith("validation/cat/64x64") for tag in seen.Tags()["images"])
    (file,) = (loud / "own" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    shown = [r.run for r in wandb_files.records(file) if r.WhichOneof("record_type") == "run"]
    assert shown[0].project == "cats" and shown[0].display_name == "first"
    assert not (quiet / "logs").exists()

    planted = ["planted", "0123456789abcdef"]
    kept = [said.encode(), *(p.read_bytes() for p in loud.rglob("*") if p.is_file())]
    assert not [word for word in planted for data in kept if word.encode() in data]
