"""Runs on disks that are small, full, or taken away: drafts lie beside what they become, the words
say which path and why, and what was trained is kept where it can be."""

import json
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from sd3tune.errors import CheckpointError, ConfigError, DiskError
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train import checkpoint
from sd3tune.train.begin import begin
from sd3tune.train.keeper import Keeper, saved_on_failure
from sd3tune.train.lock import claimed
from sd3tune.train.run import train
from tests.cpu.conftest import Train
from tests.disks import small_disk

SHORT = ("max_train_steps=2", "lr_scheduler=constant", "lr_warmup_steps=0")
MIB = 2**20


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_a_run_needs_no_temporary_folder_and_little_more_than_its_checkpoint(  # type: ignore[no-untyped-def]
    prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with small_disk(tmp_path / "tmp", 4096) as full, small_disk(tmp_path / "out", 2 * MIB) as out:
        made = prepared(*SHORT, f"output_dir={out}")
        (full / "filler").write_bytes(b"x" * 4096)
        monkeypatch.setattr(tempfile, "tempdir", str(full))
        outcome = train(made, ())
        assert outcome.adapter is not None and outcome.adapter.is_file()
        assert checkpoint.damage(out / "checkpoint-2") is None
        assert not list(out.rglob(".*tmp"))


def test_the_size_that_a_checkpoint_is_said_to_take_is_its_size(run: Train, tmp_path: Path) -> None:
    size = bytes_in(run(*SHORT, "max_train_steps=1").output / "checkpoint-1")
    with (
        small_disk(tmp_path / "small", 256 * 1024) as small,
        pytest.raises(CheckpointError, match="a checkpoint takes") as refused,
    ):
        run(*SHORT, f"output_dir={small}")
    said = re.search(r"takes ([\d.]+) (KiB|MiB), `(.*)` has", str(refused.value))
    assert said is not None and said[3] == str(small)
    need = float(said[1]) * {"KiB": 1024, "MiB": MIB}[said[2]]
    assert size <= need + MIB / 2 and need <= size + MIB, (size, need)


def test_a_result_that_has_no_room_leaves_the_checkpoint_and_says_so(
    run: Train, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "out", 4700 * 1024) as out:
        with pytest.raises(DiskError, match=f"cannot write the result in `{out}`.*full") as refused:
            run(*SHORT, "lora_rank=32", f"output_dir={out}")
        assert "checkpoint-2 holds what was trained" in refused.value.hint
        assert checkpoint.damage(out / "checkpoint-2") is None
        assert not list(out.glob(".result*")) and not list(out.glob("*.safetensors"))


def test_a_read_only_output_is_refused_before_anything_is_loaded(
    run: Train, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "out", MIB, ",ro") as out,
        pytest.raises(ConfigError, match=f"`output_dir={out}` .* the file system is read-only"),
    ):
        run(*SHORT, f"output_dir={out}")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "set_aside.json", "plan_changes.json", "validation_images", "last"]
)
def test_what_stands_in_the_way_is_named_before_anything_is_loaded(
    name: str, run: Train, tmp_path: Path
) -> None:
    (tmp_path / "output").mkdir()
    path = tmp_path / "output" / name
    path.mkdir() if "." in name else path.touch()
    with pytest.raises(DiskError, match=f"`{path}`"):
        run(*SHORT)
    assert not list((tmp_path / "output").glob("checkpoint-*"))


def test_metrics_that_cannot_be_written_cost_no_finished_step(  # type: ignore[no-untyped-def]
    prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "output"
    made = prepared(*SHORT)  # it would refuse the link below
    output.mkdir()
    with small_disk(tmp_path / "full", 4096) as full:
        (full / "metrics.jsonl").touch()
        (full / "filler").write_bytes(b"x" * 4096)
        (output / "metrics.jsonl").symlink_to(full / "metrics.jsonl")
        with pytest.raises(DiskError, match=r"metrics.jsonl`: the disk is full"):
            train(made, ())
    assert checkpoint.damage(output / "checkpoint-1") is None
    assert "the same command continues" in capsys.readouterr().err


def test_any_other_failure_between_steps_saves_the_last_one(prepared, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = prepared(*SHORT)
    output = made.plan.output_dir
    output.mkdir()
    state = begin(made.plan, ALONE_ON_CPU)
    keeper = Keeper(state, made.plan, ALONE_ON_CPU)
    with claimed(output) as claim:
        state.step, state.updating = 1, True
        with pytest.raises(MemoryError), saved_on_failure(keeper, claim):
            raise MemoryError("in the middle of an update: neither this step's nor the last one's")
        assert not checkpoint.folders(output)
        state.updating = False
        with pytest.raises(RuntimeError, match="first"), saved_on_failure(keeper, claim):
            raise RuntimeError("the first failure is the one to hear of")
    assert checkpoint.damage(output / "checkpoint-1") is None


@pytest.mark.slow
def test_an_output_removed_during_training_is_made_again_and_said(
    run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"

    def remove() -> None:
        deadline = time.monotonic() + 60
        while not (output / "checkpoint-2").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        shutil.rmtree(output.rename(tmp_path / "gone"))  # at once, whatever is being written

    remover = threading.Thread(target=remove)
    remover.start()
    outcome = run(*SHORT, "max_train_steps=12", "checkpoint_step_interval=2")
    remover.join()
    assert outcome.adapter is not None and outcome.adapter.is_file()
    assert checkpoint.damage(output / "checkpoint-12") is None
    assert "was removed during training; it is made again" in capsys.readouterr().err
    log = (output / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps[-1] == 12 and (output / ".sd3tune.lock").exists()
