"""A run in a container: pre-empted, it saves and says so; the same command continues it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.docker.conftest import ROOT, Start, docker, sd3tune, steps

RUN = ("train", "config/config.json", "validation_disable=true", "max_train_steps=60")
NEVER = "checkpoint_step_interval=100000"  # what is saved, is saved because of the signal


def ended(workspace: Path, before: int) -> None:
    """Every step once, those before the signal too, and a result."""
    assert steps(workspace) == list(range(1, 61)) and 0 < before < 60
    assert (workspace / "output" / "pytorch_lora_weights.safetensors").stat().st_size > 10_000
    assert (workspace / "output" / "checkpoint-60").is_dir()


def saved(workspace: Path) -> int:
    """The step of the one checkpoint."""
    (folder,) = (workspace / "output").glob("checkpoint-*")
    return int(folder.name.removeprefix("checkpoint-"))


def test_docker_stop_saves_and_the_same_command_continues(
    image: str, workspace: Path, start: Start
) -> None:
    words = ("-v", f"{workspace}:/workspace", "-e", "SD3TUNE_BACKEND=cpu", image, *RUN, NEVER)
    one = start(*words)
    one.until(lambda: len(steps(workspace)) >= 5, "five steps")
    docker("stop", "-t", "60", one.number)
    assert one.code() == 143
    before = saved(workspace)
    answer = docker("run", "--rm", "--network", "none", *words)
    assert answer.code == 0, answer.err[-2000:]
    assert f"checkpoint-{before}" in answer.err
    ended(workspace, before)


def test_a_run_started_from_a_shell_saves_when_the_machine_is_taken(
    images: dict[str, str], workspace: Path, start: Start
) -> None:
    """Two processes, of which only their launcher is told; tmux is what people use over SSH."""
    words = ("-v", f"{workspace}:/workspace", "-e", "SD3TUNE_BACKEND=cpu")
    one = start(*words, "-e", "RUNPOD_POD_ID=1", images["cuda"])
    one.until_said("sd3tune: waiting")
    command = shlex.join(["sd3tune", *RUN, NEVER, "--nproc", "2"])
    assert one.run("tmux", "new-session", "-d", command).code == 0
    one.until(lambda: len(steps(workspace)) >= 5, "five steps", 120)
    docker("stop", "-t", "60", one.number)
    assert one.code() == 143 and one.logs().count("stopping run") == 1
    before = saved(workspace)
    answer = docker("run", "--rm", "--network", "none", *words, images["cuda"], *RUN, NEVER)
    assert answer.code == 0, answer.err[-2000:]
    assert f"checkpoint-{before}" in answer.err
    ended(workspace, before)


def test_image_run_passes_the_signal_on_and_leaves_the_exit_code(
    images: dict[str, str], workspace: Path
) -> None:
    words = ["image", "run", "--vendor", "cuda", "--image", images["cuda"], "--cpu", "--network",
             "none", "--workspace", str(workspace), *RUN, NEVER]  # fmt: skip
    command = [sys.executable, "-m", "sd3tune", *words]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        done = len(steps(workspace))
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + 90
            while len(steps(workspace)) < done + 5:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.1)
            process.send_signal(number)
            said = process.communicate(timeout=90)[1]
        assert process.returncode == code, said[-2000:]
    before = max(steps(workspace))
    answer = sd3tune(*words)
    assert answer.code == 0, answer.err[-2000:]
    ended(workspace, before)
    left = docker(
        "ps", "-a", "-q", "--filter", f"ancestor={images['cuda']}", "--filter", "status=exited"
    )
    assert left.out == ""


def test_wrong_settings_leave_their_exit_code_and_words(
    images: dict[str, str], workspace: Path
) -> None:
    answer = sd3tune("image", "run", "--vendor", "rocm", "--image", images["rocm"], "--cpu",
                     "--network", "none", "--workspace", str(workspace),
                     "train", "config/config.json", "learning_rat=1")  # fmt: skip
    lines = answer.err.strip().splitlines()
    assert answer.code == 1 and "learning_rat" in lines[-2] and lines[-1].startswith("hint: ")
