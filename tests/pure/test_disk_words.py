"""What a disk refuses is told apart: full, quota, read-only, gone, forbidden."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sd3tune.cli import surroundings
from sd3tune.errors import DiskError
from sd3tune.filesystem import disk
from sd3tune.report.metrics import Metrics
from tests.disks import small_disk
from tests.nobody import as_nobody

WORDS = {
    errno.ENOSPC: ("is full", "free some space"),
    errno.EDQUOT: ("quota", "files of yours"),
    errno.EROFS: ("read-only", "may write to"),
    errno.ENOENT: ("removed", "again"),
    errno.ESTALE: ("not mounted any more", "mount"),
    errno.ENODEV: ("not mounted any more", "mount"),
    errno.EIO: ("input/output error", "dmesg"),
    errno.EACCES: ("permission is denied", "owner"),
    errno.EPERM: ("permission is denied", "owner"),
    errno.EMFILE: ("too many files", "ulimit -n"),
    errno.ENAMETOOLONG: ("too long", "shorter"),
    errno.EISDIR: ("is a folder", "move"),
}


@pytest.mark.parametrize("number", WORDS)
def test_each_kind_of_refusal_names_the_path_the_cause_and_the_remedy(number: int) -> None:
    why, remedy = WORDS[number]
    for error in (
        OSError(number, os.strerror(number)),
        SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})"),
    ):
        said = disk.refusal("write", Path("/a/b"), error, then="step 3 is kept")
        assert str(said).startswith("cannot write `/a/b`: ") and why in str(said)
        assert remedy in said.hint and said.hint.endswith("; step 3 is kept")


def test_a_number_nobody_knows_is_said_in_the_systems_words() -> None:
    assert "Inappropriate ioctl" in str(disk.refusal("write", "x", OSError(errno.ENOTTY,
                                        "Inappropriate ioctl for device")))  # fmt: skip


def test_what_is_not_the_worlds_is_still_a_bug_of_ours() -> None:
    assert surroundings.refusal(OSError(errno.EINVAL, "Invalid argument")) is None
    assert surroundings.refusal(UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogate")) is None


def test_metrics_on_a_full_disk_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 4096) as folder:
        metrics = Metrics(folder / "metrics.jsonl", 0)
        with pytest.raises(DiskError, match=r"metrics.jsonl`: the disk is full"):
            for step in range(1, 100):
                metrics.write(step, {"loss": 1.0}, [(0.5, 1.0)])


def test_metrics_without_permission_are_an_error_that_names_the_file(public: Path) -> None:
    path = public / "metrics.jsonl"
    path.touch(0o444)

    def told() -> str:
        try:
            Metrics(path, 0).write(1, {"loss": 1.0}, [])
        except DiskError as e:
            return f"{e} | {e.hint}"
        return "nothing"

    assert "permission is denied | choose a folder you may write to" in as_nobody(told)


def test_metrics_of_a_folder_that_was_removed_begin_again_there(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "output" / "metrics.jsonl", 0)
    metrics.write(1, {"loss": 1.0}, [])
    assert '"step": 1' in (tmp_path / "output" / "metrics.jsonl").read_text()


def test_a_library_that_does_not_load_is_the_worlds_and_a_module_of_ours_a_bug() -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    said = surroundings.refusal(missing)
    assert said is not None
    assert said[0].startswith("PyTorch cannot be imported: ModuleNotFoundError: No module")
    taken = surroundings.refusal(ImportError("cannot import name 'x'", name="peft.tuners"))
    assert taken is not None and taken[0].startswith("the package peft cannot be imported")
    assert surroundings.refusal(ImportError("cannot import name 'x'", name="sd3tune.cli")) is None
    assert surroundings.refusal(ImportError("of no module")) is None
