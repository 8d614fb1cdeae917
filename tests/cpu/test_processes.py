"""Several processes as one run: over gloo on the CPU, through the real command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sd3tune import start
from sd3tune.errors import ConfigError, PeerLost
from sd3tune.processes.environment import ALONE, Processes, processes
from sd3tune.processes.launch import _verdict
from tests.cpu.conftest import Train
from tests.planted import plant, ran

ROOT = Path(start.ROOT)
WORDS = ("validation_disable=true", "lr_warmup_steps=0", "train_batch_size=2",
         "lr_scheduler=constant", "checkpoint_step_interval=2", "lora_dropout=0")  # fmt: skip
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}


def command(demo: Path, output: Path, *words: str) -> list[str]:
    config = str(demo / "config" / "config.json")
    return [
        sys.executable,
        "-m",
        "sd3tune",
        "train",
        config,
        *WORDS,
        f"output_dir={output}",
        *words,
    ]


def metrics(output: Path, *names: str) -> list[tuple[Any, ...]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [tuple(row[name] for name in names) for row in rows]


def trained(output: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoint-{step}" / "trained.safetensors")


def tree(pid: int) -> list[psutil.Process]:
    """A launcher and what it started, those last."""
    launcher = psutil.Process(pid)
    return [launcher, *launcher.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses under which they take connections, as /proc/net/tcp and tcp6 have them."""
    found = [c for p in processes for c in p.net_connections(kind="tcp")]
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}


def until(true: Callable[[], object], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batches_and_a_killed_one_changes_nothing(
    demo: Path, run: Train, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run(*WORDS, "max_train_steps=12", "gradient_accumulation_steps=2", f"output_dir={one}")
    words = command(demo, two, "max_train_steps=12", "--nproc", "2")
    temporary = tmp_path / "temporary #1 %20"  # not an address: a path
    temporary.mkdir()
    child = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             cwd=plant(tmp_path / "download"),
                             env=ENVIRONMENT | {"TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT}:"}
                             )  # fmt: skip
    until((two / "checkpoint-2").exists)
    launcher, *workers = tree(child.pid)
    assert len(workers) == 2 and listening([launcher]) == set()
    assert listening(workers) and listening(workers) <= {"127.0.0.1", "::1"}
    (folder,) = temporary.glob("sd3tune-run-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    workers[-1].send_signal(signal.SIGKILL)
    said, log = child.communicate(timeout=240)
    assert child.returncode == 0, log
    assert "starting 2 processes" in log
    assert "was killed by signal 9; all are started again" in log and "resumes " in log
    assert f"{alone.noise:016x}" in said and not list(temporary.glob("sd3tune-*"))
    assert ran(tmp_path / "download") == [] and not list(temporary.glob("torchelastic*"))
    ours, theirs = metrics(two, "loss", "learning_rate"), metrics(one, "loss", "learning_rate")
    assert len(ours) == len(theirs) == 12
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    assert metrics(two, "images", "tokens", "level_images") == metrics(
        one, "images", "tokens", "level_images"
    )
    after, want = trained(two, 12), trained(one, 12)
    assert after.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(after[name], want[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_processes_save_and_end_when_their_launcher_is_killed(demo: Path, tmp_path: Path) -> None:
    words = command(demo, tmp_path, "max_train_steps=5000", "checkpoint_step_interval=5000")
    child = subprocess.Popen([*words, "--nproc", "2"], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=ENVIRONMENT)  # fmt: skip
    log = tmp_path / "metrics.jsonl"
    until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    launcher, *workers = tree(child.pid)
    launcher.kill()
    child.wait()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    for one in alive:
        one.kill()
    assert len(gone) == 2 and list(tmp_path.glob("checkpoint-*"))


@pytest.mark.slow
def test_two_processes_that_multiply_in_8_bits_have_one_certificate(
    demo: Path, run: Train, tmp_path: Path
) -> None:
    """Each measures its own images and takes the worst figures of both; a value between two codes
    may go either way, so losses are less alike than without."""
    eight = ("base_model_precision=int8-w8a8", "w8a8_check_interval=2", "max_train_steps=4")
    one, two = tmp_path / "one", tmp_path / "two"
    run(*WORDS, *eight, "gradient_accumulation_steps=2", f"output_dir={one}")
    words = command(demo, two, *eight, "--nproc", "2")
    child = subprocess.run(words, text=True, capture_output=True, env=ENVIRONMENT)
    assert child.returncode == 0, child.stderr
    assert child.stderr.count("layers multiply in 8 bits") == 1
    for mine, other in zip(metrics(two, "loss"), metrics(one, "loss"), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    ours, theirs = ((f / "eight_bit_products.json").read_bytes() for f in (two, one))
    assert json.loads(ours)["errors"] == json.loads(theirs)["errors"]


@pytest.mark.slow
def test_split_weights_train_as_whole_ones_and_go_on_in_one_process(
    demo: Path, run: Train, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = ("model_type=full", "learning_rate=1e-3", "use_ema=true", "ema_device=accelerator")
    run(*WORDS, *words, "max_train_steps=4", "gradient_accumulation_steps=2", f"output_dir={one}")
    ran = subprocess.run(
        command(demo, two, *words, "max_train_steps=2", "fsdp_enable=true", "--nproc", "2"),
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    outcome = run(*WORDS, *words, "max_train_steps=4", "gradient_accumulation_steps=2",
                  f"output_dir={two}")  # fmt: skip
    assert outcome.step == 4 and (two / "pipeline" / "model_index.json").is_file()
    for name, want in trained(one, 4).items():
        torch.testing.assert_close(trained(two, 4)[name], want, rtol=0, atol=2e-5)
    assert metrics(two, "loss") == [(pytest.approx(x[0], rel=1e-4),) for x in metrics(one, "loss")]


@pytest.mark.slow
def test_two_machines_meet_at_an_address_and_train_as_one(demo: Path, tmp_path: Path) -> None:
    """Both are this one, each with a launcher and a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("max_train_steps=2", "num_machines=2", "main_process_ip=127.0.0.1",
             f"main_process_port={port}")  # fmt: skip
    machines = [subprocess.Popen(command(demo, tmp_path, *words, f"machine_rank={rank}"), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
                for rank in (0, 1)]  # fmt: skip
    said = [machine.communicate(timeout=240) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "steps            2 of 2" in said[0][0] and not said[1][0]
    assert metrics(tmp_path, "step", "images") == [(1, 4), (2, 4)]


def test_the_environment_of_a_launcher_says_who_one_is() -> None:
    assert processes({}) == ALONE
    said = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    found = processes(said | {"TORCHELASTIC_RESTART_COUNT": "2"})
    assert found == Processes(3, 4, 1, 2, 2) and not found.main
    for wrong, error in (
        ({"RANK": "4"}, "RANK=4 must be below WORLD_SIZE=4"),
        ({"RANK": "-1"}, "RANK=-1 must be 0 or more"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x is not a whole number"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 must be below LOCAL_WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8 must not be above WORLD_SIZE=4"),
    ):
        with pytest.raises(ConfigError, match=error):
            processes(said | wrong)


@pytest.mark.parametrize(
    ("codes", "code", "again"),
    [
        ({0: -15, 1: -9}, 137, "process 1 was killed by signal 9"),
        ({0: 75, 1: -15}, 75, "process 0 lost another process"),
        ({0: 1, 1: -15}, 1, None),  # an error that would come again
        ({0: 75, 1: 2}, 2, None),
        ({0: -15}, 143, "process 0 was killed by signal 15"),
        ({0: 143, 1: -9}, 137, "process 1 was killed by signal 9"),
        ({0: 143, 1: 1}, 1, None),
        ({0: 75, 1: 143}, 143, None),
    ],
)
def test_a_killed_process_is_worth_another_attempt_and_an_error_is_not(
    codes: dict[int, int], code: int, again: str | None
) -> None:
    assert PeerLost.exit_code == 75 and _verdict(codes) == (code, again)


@pytest.mark.slow
def test_an_adapter_that_took_part_of_split_weights_is_saved_and_written(
    demo: Path, run: Train, tmp_path: Path
) -> None:
    """PiSSA: `off` exchanges values, checkpoints and the file gather them, on every process."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = ("lora_init_type=pissa", "max_train_steps=2")
    run(*WORDS, *words, "gradient_accumulation_steps=2", f"output_dir={one}")
    ran = subprocess.run(command(demo, two, *words, "fsdp_enable=true",
                                 "fsdp_reshard_after_forward=false", "--nproc", "2"),
                         capture_output=True, text=True, env=ENVIRONMENT, timeout=240)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours, theirs = (load_file(p / "pytorch_lora_weights.safetensors") for p in (two, one))
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        torch.testing.assert_close(ours[name], want, rtol=0, atol=1e-4)
