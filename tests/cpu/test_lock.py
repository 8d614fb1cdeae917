"""One output_dir, one run; a killed run leaves no lock behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd3tune.errors import DiskError
from sd3tune.processes.environment import Processes
from sd3tune.train import lock
from sd3tune.train.lock import Claim, claimed
from sd3tune.train.run import train
from tests.cpu.conftest import Train

HOLDER = """
import sys, time
from pathlib import Path
from sd3tune.train.lock import claimed
sys.argv = ["sd3tune", "train", "mine.json"]
with claimed(Path({output!r})):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture
def holder(output: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that has `output`."""
    command = [sys.executable, "-c", HOLDER.format(output=str(output))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_with_the_others_process_host_and_start(
    run: Train, output: Path, holder: "subprocess.Popen[str]"
) -> None:
    before = {p: p.read_bytes() for p in output.iterdir()}
    with pytest.raises(DiskError) as refused:
        run("max_train_steps=1", "lr_warmup_steps=0")
    said = str(refused.value)
    assert f"`{output}` is in use by process {holder.pid} on host {socket.gethostname()}" in said
    assert f"since {time.strftime('%Y-')}" in said and "output_dir of its own" in refused.value.hint
    assert {p: p.read_bytes() for p in output.iterdir()} == before


def test_looking_needs_no_lock(prepared, output: Path, holder: object) -> None:  # type: ignore[no-untyped-def]
    assert prepared("max_train_steps=1", "lr_warmup_steps=0").plan.steps == 1


def test_only_the_first_process_of_a_run_takes_the_lock(
    output: Path, holder: "subprocess.Popen[str]"
) -> None:
    with claimed(output, main=Processes(rank=1, size=2).main) as claim:
        claim.renew()


def test_a_killed_run_leaves_no_lock_behind(
    run: Train, output: Path, holder: "subprocess.Popen[str]"
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    outcome = run("max_train_steps=1", "lr_warmup_steps=0")
    assert outcome.step == 1
    with claimed(output):  # and a finished one none either
        pass


def test_a_lock_that_is_a_link_is_not_followed(output: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (output / lock.NAME).symlink_to(precious)
    with pytest.raises(DiskError, match="symbolic link"), claimed(output):
        pass
    assert precious.read_text() == "mine"


def test_a_lock_that_is_another_files_second_name_leaves_that_as_it_is(
    output: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    os.link(precious, output / lock.NAME)
    with claimed(output), pytest.raises(DiskError, match="has not said its process"):
        Claim(output).take()
    assert precious.read_text() == "mine"


def test_a_lock_file_that_was_removed_is_made_again_and_the_folder_was_not(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed(output) as claim:
        (output / lock.NAME).unlink()
        claim.renew()
        assert (output / lock.NAME).is_file() and not capsys.readouterr().err
        shutil.rmtree(output)
        claim.renew()
        assert "was removed during training; it is made again" in capsys.readouterr().err


def test_a_folder_that_was_removed_and_taken_by_another_run_is_not_written_to(
    output: Path, tmp_path: Path
) -> None:
    claim = Claim(output)
    claim.take()
    output.rename(tmp_path / "away")
    output.mkdir()
    command = [sys.executable, "-c", HOLDER.format(output=str(output))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(DiskError, match=f"in use by process {other.pid}"):
                claim.renew()
        finally:
            other.kill()
            claim.release()


def test_a_run_that_ends_gives_the_lock_back_whatever_it_ended_with(  # type: ignore[no-untyped-def]
    prepared,
    output: Path,
) -> None:
    (output / "metrics.jsonl").mkdir()
    with pytest.raises(DiskError, match=r"metrics.jsonl"):
        train(prepared("max_train_steps=1", "lr_warmup_steps=0"), ())
    with claimed(output):
        assert list(output.iterdir())
