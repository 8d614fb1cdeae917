"""A working directory that was removed, no temporary folder, a locale without UTF-8: one error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import Project

SD3TUNE = f"{sys.executable} -m sd3tune"
HERE = str(Path(__file__).parents[2])


def sh(script: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": HERE, "SD3TUNE_BACKEND": "cpu"} | environ
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env)


def one_error(done: "subprocess.CompletedProcess[str]") -> str:
    """Its line."""
    assert done.returncode == 1, done.stderr
    taken = "configuration: "  # the line that names the file that was taken
    lines = [line for line in done.stderr.splitlines() if not line.startswith(taken)]
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], done.stderr
    return lines[0]


@pytest.mark.parametrize("words", ["plan", "train", "dataset", "doctor --report"])
def test_a_removed_working_directory_is_one_error(words: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = sh(f"cd {gone} && rmdir {gone} && {SD3TUNE} {words}")
    assert "the working directory does not exist any more" in one_error(done)


def test_doctor_and_help_need_no_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = sh(f"cd {gone} && rmdir {gone} && {SD3TUNE} doctor --on list && {SD3TUNE} --help")
    assert done.returncode == 0 and "h100" in done.stdout and "sd3tune train" in done.stdout


@pytest.mark.needs_torch
@pytest.mark.parametrize("usable", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_plan_needs_some_temporary_folder_and_the_error_names_tmpdir(
    usable: bool, tmp_path: Path
) -> None:
    folders = ["/tmp", "/var/tmp", *([] if usable else ["/dev/shm"])]
    read_only = "; ".join(f"mount --bind {d} {d} && mount -o remount,ro,bind {d}" for d in folders)
    read_only += "; mount -t tmpfs none /mnt"  # for the output
    if sh(f"unshare -m bash -c '{read_only}'").returncode != 0:
        pytest.skip("mounting is not allowed here")
    Project(tmp_path)
    plan = f"cd /proc && {SD3TUNE} plan {tmp_path}/config/config.json"
    model = "pretrained_model_name_or_path=stabilityai/stable-diffusion-3.5-medium"
    plan += " output_dir=/mnt/output"
    done = sh(f"unshare -m bash -c '{read_only}; {plan} {model}'", TMPDIR="/nowhere", HOME="/proc")
    if usable:
        assert done.returncode == 0, done.stderr
    else:
        assert "/nowhere, /tmp, /var/tmp, /dev/shm" in one_error(done) and "TMPDIR" in done.stderr


def test_paths_that_a_locale_has_no_characters_for_are_one_error(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.image(instance_data_dir="caf\u00e9")
    (tmp_path / "photos").rename(tmp_path / "caf\u00e9")
    command = f"cd {tmp_path} && {SD3TUNE} dataset --json"
    assert sh(command).returncode == 0
    done = sh(command, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "'caf\\xe9'" in one_error(done) or "caf\\xe9" in one_error(done)
    assert "LC_ALL=C.UTF-8" in done.stderr
