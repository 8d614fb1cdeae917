"""Nothing lost: what a checkpoint holds, when it is written, and that a resumed run is the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sd3tune.errors import CheckpointError
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train import checkpoint
from sd3tune.train.begin import begin
from tests.cpu.conftest import Project, Train

USUAL = ("lr_warmup_steps=0", "train_batch_size=2", "lora_dropout=0.2")
LOKR = {"algo": "lokr", "factor": 4, "linear_dim": 4, "rank_dropout": 0.1}

KINDS = {
    "lora, int8, averaged": ("base_model_precision=int8-quanto", "use_ema=true"),
    "dora, nf4": ("use_dora=true", "base_model_precision=nf4-bnb"),
    "dora, products in int8": (
        "use_dora=true",
        "base_model_precision=int8-w8a8",
        "w8a8_check_interval=2",
    ),
    "lokr, products in fp8": ("lora_type=lycoris", "base_model_precision=fp8-w8a8"),
    "pissa": ("lora_init_type=pissa",),
    "lycoris": ("lora_type=lycoris",),
    "full": ("model_type=full", "learning_rate=1e-4", "use_ema=true"),
}
SLOW = ("lora, int8, averaged", "dora, nf4", "dora, products in int8", "lokr, products in fp8",
        "pissa", "lycoris", "full")  # fmt: skip


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {f"{file.name}:{n}": t for n, t in load_file(file).items()}
    return found


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return found


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=kind, marks=[pytest.mark.slow] * (kind in SLOW))
        for kind, words in KINDS.items()
    ],
)
def test_whatever_is_trained_resumes_bit_for_bit(
    words: tuple[str, ...], run: Train, tmp_path: Path
) -> None:
    (tmp_path / "lokr.json").write_text(json.dumps(LOKR))
    more = [f"lycoris_config={tmp_path / 'lokr.json'}"] if "lora_type=lycoris" in words else []
    words = (*USUAL, *words, *more, "max_train_steps=5")
    whole, again = tmp_path / "whole", tmp_path / "again"
    first = run(*words, f"output_dir={whole}", "checkpoint_step_interval=2")
    again.mkdir()
    (whole / "checkpoint-2").rename(again / "checkpoint-2")
    second = run(*words, f"output_dir={again}")
    ours, theirs = tensors(again / "checkpoint-5"), tensors(whole / "checkpoint-5")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert facts(again / "checkpoint-5") == facts(whole / "checkpoint-5")
    assert second.loss_after == first.loss_after and second.noise == first.noise != 0


@pytest.mark.slow
def test_checkpoints_are_kept_by_steps_by_epochs_and_for_a_while(
    run: Train, tmp_path: Path
) -> None:
    words: tuple[str, ...] = ("max_train_steps=5", "lr_warmup_steps=0", "train_batch_size=2")
    run(*words, "checkpoint_step_interval=2", "checkpointing_rolling_steps=1",
        "checkpoints_rolling_total_limit=2")  # fmt: skip
    output = tmp_path / "output"
    names = sorted(p.name for p in output.glob("checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-3-rolling", "checkpoint-4", "checkpoint-5",
                     "checkpoint-5-rolling"]  # fmt: skip
    words += ("resume_from_checkpoint=never", "checkpoints_total_limit=2")
    run(*words, "checkpoint_step_interval=1")
    assert sorted(p.name for p in output.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    # What an earlier run had is kept, where `latest` does not find it.
    assert sorted(p.name for p in (output / "earlier-1").iterdir()) == [*names, "metrics.jsonl"]


@pytest.mark.slow
def test_a_checkpoint_with_the_name_of_another_step_is_not_resumed_and_stays(
    run: Train, tmp_path: Path
) -> None:
    output, words = tmp_path / "output", (*USUAL, "checkpoint_step_interval=1")
    run(*words, "max_train_steps=2")
    renamed = (output / "checkpoint-1").rename(output / "checkpoint-3")
    before = tensors(renamed)
    assert run(*words, "max_train_steps=3").step == 3
    after = tensors(renamed)
    assert all(torch.equal(before[k], after[k]) for k in before) and facts(renamed)["step"] == 1
    assert facts(output / "checkpoint-3-2")["step"] == 3
    log = (output / "metrics.jsonl").read_text()
    rows = [json.loads(line)["step"] for line in log.splitlines()]
    assert rows == [1, 2, 3]


@pytest.mark.slow
def test_epoch_intervals_follow_the_schedule_and_not_the_steps(run: Train, tmp_path: Path) -> None:
    output = tmp_path / "output"
    run("max_train_steps=7", "lr_warmup_steps=0", "train_batch_size=8",
        "gradient_accumulation_steps=2", "checkpoint_epoch_interval=1")  # fmt: skip
    plan = json.loads((output / "checkpoint-7" / "plan.json").read_text())
    assert plan["decisions"]["gradient_accumulation_steps"]["value"] == 2
    steps = sorted(facts(p)["step"] for p in output.glob("checkpoint-*"))
    # Five batches an epoch: the first ends inside the third step of two, the second with the fifth.
    assert steps == [3, 5, 7]


def test_a_checkpoint_is_asked_for_by_its_name_in_the_output_folder(
    run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*USUAL, "max_train_steps=4", "checkpoint_step_interval=2")
    run(*USUAL, "max_train_steps=5", "resume_from_checkpoint=checkpoint-2")
    assert "checkpoint-2 (step 2 of 5)" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="is at step 5, max_train_steps is 4"):
        run(*USUAL, "max_train_steps=4")


def test_what_a_killed_run_left_half_written_is_cleared_and_never_read(
    prepared: Any, tmp_path: Path
) -> None:
    state = begin(prepared("max_train_steps=4", "lr_warmup_steps=0").plan, ALONE_ON_CPU)
    state.step = 3
    whole = checkpoint.save(state, tmp_path, "{}")
    for left in (".checkpoint-4.tmp", ".checkpoint-2.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "trained.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == (whole, ())
    checkpoint.prune(tmp_path, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_checkpoint_without_an_average_is_refused_by_a_run_with_one(
    prepared: Any, tmp_path: Path
) -> None:
    state = begin(prepared("max_train_steps=4", "lr_warmup_steps=0").plan, ALONE_ON_CPU)
    folder = checkpoint.save(state, tmp_path, "{}")
    plan = prepared("max_train_steps=4", "lr_warmup_steps=0", "use_ema=true").plan
    with pytest.raises(CheckpointError, match="without a moving average"):
        checkpoint.load(begin(plan, ALONE_ON_CPU), folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_before_anything_is_written_and_the_last_checkpoint_holds(
    project: Project, small_disk: Path
) -> None:
    """The real command, on a disk that holds one checkpoint and not two."""
    for number in range(4):
        project.picture(f"{number}.png", number)
    project.config |= {"output_dir": str(small_disk), "max_train_steps": 6, "lora_rank": 16,
                       "checkpoint_step_interval": 1, "lr_warmup_steps": 0}  # fmt: skip
    command = [sys.executable, "-m", "sd3tune", "train", str(project.write())]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 1, ran.stderr
    error, hint = ran.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: ") and str(small_disk) in error and "left" in error
    assert hint.startswith("hint: free some space")
    newest, passed = checkpoint.latest(small_disk)
    assert newest is not None and not passed and "Traceback" not in ran.stderr
    assert not list(small_disk.glob(".checkpoint-*"))
