"""Queues of runs through the real command, and the base model that runs of one process share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sd3tune import load
from sd3tune.adapters import lora
from sd3tune.config.files.prompts import load_prompts
from sd3tune.plan.shared_base import base_key
from sd3tune.prepare import Prepared
from sd3tune.train.begin import LoadBase
from sd3tune.train.kept_base import KeptBase, sharing_weights
from sd3tune.train.run import train
from tests.commands import sd3tune

CPU = torch.device("cpu")
SHORT = (
    "max_train_steps=2", "lr_warmup_steps=0", "validation_disable=true", "eval_loss_disable=true",
)  # fmt: skip
Prepare = Callable[..., Prepared]


def adapted(model: Any) -> None:
    shape = lora.Shape(rank=2, alpha=2, dropout=0, targets=("to_q",))
    lora.attach(model, shape, dtype=torch.float32, seed=1)


def test_a_copy_shares_the_weights_and_keeps_its_modules_to_itself(prepared: Prepare) -> None:
    model = load.transformer(prepared().plan, CPU)
    names = [name for name, _ in model.named_modules()]
    copied = sharing_weights(model)
    adapted(copied.train())
    assert [name for name, _ in model.named_modules()] == names and not model.training
    shared = dict(copied.named_parameters())
    for name, weight in model.named_parameters():
        own = name if name in shared else name.replace("to_q.", "to_q.base_layer.")
        assert shared[own] is weight


def test_a_base_is_kept_as_long_as_a_later_run_needs_it(
    prepared: Prepare, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, full = prepared().plan, prepared("model_type=full", "lora_rank=1").plan
    key = base_key(plan)
    base = KeptBase([key, key, base_key(full)])
    first = base.transformer(plan, CPU)
    base.ended(key)
    second = base.transformer(plan, CPU)
    assert next(first.parameters()) is next(second.parameters())
    base.ended(key)
    third = base.transformer(full, CPU)
    assert next(third.parameters()) is not next(second.parameters())
    said = capfd.readouterr().err
    assert said.count("loading ") == 2 and said.count("kept ") == 1


@pytest.mark.slow
def test_a_run_on_a_kept_base_equals_a_run_of_its_own(prepared: Prepare, tmp_path: Path) -> None:
    def trained(name: str, base: LoadBase, *words: str) -> bytes:
        made = prepared(*SHORT, f"output_dir={tmp_path / name}", *words)
        train(made, load_prompts(made.plan.config), base)
        return tensors(tmp_path / name)

    other = ("lora_rank=4", "seed=7", "train_batch_size=2")
    key = base_key(prepared().plan)
    base = KeptBase([key, key])
    trained("first", base.transformer, "train_batch_size=2")
    base.ended(key)
    assert trained("second", base.transformer, *other) == trained("alone", load.transformer, *other)
    assert losses(tmp_path / "second") == losses(tmp_path / "alone")


def configs(demo: Path, folder: Path) -> list[str]:
    """Three runs on one base model, each with its output below `folder`."""
    base = json.loads((demo / "config" / "config.json").read_text())
    changes = {"a": {}, "b": {"learning_rate": 0.001}, "c": {"lora_rank": 4, "seed": 7}}
    files = []
    for name, change in changes.items():
        file = demo / "config" / f"{folder.name}-{name}.json"
        file.write_text(json.dumps(base | change | {"output_dir": str(folder / name)}))
        files.append(str(file))
    return files


def tensors(output: Path) -> bytes:
    """The file of an adapter without its header, which names its run."""
    content = (output / "pytorch_lora_weights.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def losses(output: Path) -> list[float]:
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_two_runs_of_one_folder_are_refused_before_anything_starts(
    demo: Path, tmp_path: Path
) -> None:
    a, b, _ = configs(demo, tmp_path)
    done = sd3tune("train", a, b, *SHORT, f"output_dir={tmp_path / 'same'}")
    assert done.returncode == 1 and "have one output_dir" in done.stderr
    assert not (tmp_path / "same").exists()


@pytest.mark.slow
def test_a_queue_goes_on_after_a_failure_and_equals_separate_runs(
    demo: Path, tmp_path: Path
) -> None:
    a, b, c = configs(demo, tmp_path)
    (tmp_path / "b" / "set_aside.json").mkdir(parents=True)  # where a file is to be written
    done = sd3tune("train", a, b, c, *SHORT)
    assert done.returncode == 1
    assert f"1 of 3 runs failed: {b} (exit code 1)" in " ".join(done.stderr.split())
    table = done.stdout.split("queue of 3 runs")[1]
    assert table.count("finished") == 2 and table.count("failed") == 1
    assert done.stderr.count("kept     transformer") == 1  # of c; a loaded it
    alone = sd3tune("train", c, *SHORT, f"output_dir={tmp_path / 'alone'}")
    assert alone.returncode == 0
    assert tensors(tmp_path / "alone") == tensors(tmp_path / "c")
    assert losses(tmp_path / "alone") == losses(tmp_path / "c")
    again = sd3tune("train", a, c, *SHORT)
    assert again.returncode == 0 and again.stdout.count("finished before") == 2


def started(words: list[str], output: Path) -> "subprocess.Popen[str]":
    """A queue whose first run has taken a step."""
    command = [sys.executable, "-m", "sd3tune", "train", *words]
    queue = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while queue.poll() is None and not (output / "metrics.jsonl").exists():
        time.sleep(0.2)
    while queue.poll() is None and not (output / "metrics.jsonl").read_text():
        time.sleep(0.2)
    return queue


@pytest.mark.slow
def test_a_signal_stops_the_run_and_starts_no_other(demo: Path, tmp_path: Path) -> None:
    files = configs(demo, tmp_path)
    queue = started([*files, *SHORT, "max_train_steps=100000"], tmp_path / "a")
    queue.send_signal(signal.SIGTERM)
    out, err = queue.communicate(timeout=300)
    assert queue.returncode == 143 and "the same command continues" in err
    table = out.split("queue of 3 runs")[1]
    assert table.count("stopped") == 1 and table.count("not started") == 2
    assert list((tmp_path / "a").glob("checkpoint-*")) and not (tmp_path / "b" / "x").exists()


@pytest.mark.slow
def test_a_killed_process_costs_one_run(demo: Path, tmp_path: Path) -> None:
    files = configs(demo, tmp_path)
    queue = started([*files[:2], *SHORT, "max_train_steps=3000"], tmp_path / "a")
    (child,) = psutil.Process(queue.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    while queue.poll() is None and not (tmp_path / "b" / "metrics.jsonl").exists():
        time.sleep(0.2)
    queue.send_signal(signal.SIGTERM)
    out, _ = queue.communicate(timeout=300)
    table = " ".join(out.split("queue of 2 runs")[1].split())
    assert f"failed {files[0]} exit code 137" in table and f"stopped {files[1]}" in table
