"""A run outlives its terminal: SIGHUP saves, and a log that nobody reads is no reason to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException

from sd3tune import cli
from sd3tune.processes.launch import pass_hangups_on
from sd3tune.report import streams
from sd3tune.train import checkpoint
from sd3tune.train.interrupt import interruptible
from tests.cpu.conftest import Project


def command(demo: Path, output: Path, *words: str) -> list[str]:
    config = str(demo / "config" / "config.json")
    always = (f"output_dir={output}", "validation_disable=true", "lr_warmup_steps=0")
    return [sys.executable, "-m", "sd3tune", "train", config, *always, *words]


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run_however_often_it_says_so(
    demo: Path, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    words = command(demo, tmp_path, "max_train_steps=4000", "checkpoint_step_interval=2")
    child = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)  # whatever it says from now on is an input/output error
    deadline = time.monotonic() + 600
    while not checkpoint.folders(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    while child.poll() is None and time.monotonic() < deadline:
        child.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    assert child.wait(60) == 128 + signal.SIGHUP
    found, passed = checkpoint.latest(tmp_path)
    steps = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert found is not None and checkpoint.step_of(found) == len(steps) and not passed


@pytest.mark.slow
def test_a_run_whose_reader_is_gone_trains_to_its_end(demo: Path, tmp_path: Path) -> None:
    words = command(demo, tmp_path, "max_train_steps=2")
    script = '"$@" 2>&1 | head -1; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.signal is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        pass_hangups_on()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_is_the_first_one_again_and_a_second_sigterm_ends() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hangup = signal.getsignal(signal.SIGHUP)
    try:
        with interruptible() as interrupt:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.signal == signal.SIGHUP
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGHUP)  # also while the run ends
    finally:
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "when", "words"),
    [
        (signal.SIGTERM, "cache/text/shards/*.safetensors", ()),
        (signal.SIGHUP, "cache/text/shards/*.safetensors", ()),
        (signal.SIGTERM, "output/*.safetensors", ("validation_disable=false",)),
    ],
)
def test_a_signal_outside_training_leaves_soon_with_a_sentence(
    number: signal.Signals, when: str, words: tuple[str, ...], project: Project
) -> None:
    """During encoding, and while pictures of the result are drawn."""
    for i in range(30 if "cache" in when else 3):
        project.picture(f"{i}.png", i)
    more = ("validation_prompt=a", "validation_num_inference_steps=900", "max_train_steps=1")
    said = project.root / "said"
    child = os.fork()
    if child == 0:  # torch is loaded already
        try:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = streams.writer(2)
            for each in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(each, signal.SIG_DFL)
            sys.argv = ["sd3tune", "train", str(project.write()), *more, *words]
            cli.main()
        except SystemExit as e:
            os._exit(int(e.code or 0))
        finally:
            os._exit(99)
    while not list(project.root.glob(when)):
        assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        time.sleep(0.01)
    os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    lines = said.read_text().splitlines()
    assert os.waitstatus_to_exitcode(status) == 128 + number, "\n".join(lines)
    kept = "what was finished is kept, and the same command continues"
    assert (
        lines[-1] == f"stopped by signal {int(number)}; {kept}"
        and "Traceback" not in said.read_text()
    )


def test_an_error_in_place_of_the_signal_is_not_reported() -> None:
    """torch's C code answers an exception of a signal handler with a TypeError of its own."""
    script = """
import os, signal, sys
from sd3tune import cli
from sd3tune.report import stopping

@cli.cli.command("swallow")
def swallow():
    stopping.stop_when_told()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except stopping.Stopped:
        raise TypeError("could not determine the shape of object type") from None

sys.argv = ["sd3tune", "swallow"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()) == (
        143,
        ["stopped by signal 15; what was finished is kept, and the same command continues"],
    )


def test_the_launcher_passes_a_hangup_on_once() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        pass_hangups_on()
        with pytest.raises(SignalException) as told:
            os.kill(os.getpid(), signal.SIGHUP)
        assert told.value.sigval == signal.SIGHUP
        os.kill(os.getpid(), signal.SIGHUP)  # while processes save
    finally:
        signal.signal(signal.SIGHUP, before)
