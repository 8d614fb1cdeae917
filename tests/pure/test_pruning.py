"""Only whole checkpoints of the run are counted and removed; nothing of anybody else is."""

import json
import shutil
from pathlib import Path

import pytest

from sd3tune.formats import manifest
from sd3tune.train.pruning import Verified, prune, recover
from tests import checkpoints
from tests.checkpoints import flip, folder, foreign, names


def test_checkpoints_of_other_trainers_neither_count_nor_go(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400, 500):
        foreign(tmp_path, step)
    for step in (1, 2, 3):
        newest = folder(tmp_path, step)
        prune(tmp_path, 2, run="a", newest=newest)
    own = {"checkpoint-2", "checkpoint-3"}
    assert names(tmp_path) == own | {f"checkpoint-{n}00" for n in range(1, 6)}


def test_a_limit_of_one_beside_a_damaged_newest_leaves_a_whole_one(tmp_path: Path) -> None:
    folder(tmp_path, 1)
    flip(folder(tmp_path, 2) / "trained.safetensors")
    prune(tmp_path, 1)
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-2"}
    prune(tmp_path, 1, run="a", newest=folder(tmp_path, 3))
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-3"}


def test_a_flipped_bit_in_the_middle_does_not_count(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder(tmp_path, step)
    flip(tmp_path / "checkpoint-2" / "optimizer.safetensors")
    prune(tmp_path, 2, newest=tmp_path / "checkpoint-3")
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


def test_the_one_just_written_stays_behind_an_older_higher_one(tmp_path: Path) -> None:
    folder(tmp_path, 9, name="checkpoint-9-rolling")
    newest = folder(tmp_path, 5, name="checkpoint-5-rolling")
    prune(tmp_path, 1, kind="rolling", run="a", newest=newest)
    assert newest.is_dir()
    after = folder(tmp_path, 6, name="checkpoint-6-rolling")
    prune(tmp_path, 1, kind="rolling", run="a", newest=after)
    assert after.is_dir() and not newest.exists()


def test_rolling_ones_are_counted_apart_and_checkpoints_of_before_count_too(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder(tmp_path, step, run=None)
    folder(tmp_path, 2, name="checkpoint-2-rolling")
    prune(tmp_path, 2, run="a")
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-3", "checkpoint-2-rolling"}


def test_a_whole_checkpoint_of_another_run_is_left_alone(tmp_path: Path) -> None:
    folder(tmp_path, 1, run="b")
    for step in (2, 3):
        folder(tmp_path, step)
    prune(tmp_path, 1, run="a")
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-3"}


def test_links_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    elsewhere, output = folder(tmp_path, 1), tmp_path / "output"
    folder(output, 2)
    (output / "checkpoint-1").symlink_to(elsewhere)
    prune(output, 1, newest=folder(output, 3))
    assert names(output) == {"checkpoint-1", "checkpoint-3"} and elsewhere.is_dir()
    found, passed = manifest.latest(output)
    assert found == output / "checkpoint-3" and not passed
    shutil.rmtree(found)
    found, passed = manifest.latest(output)
    assert found is None and "symbolic link" in passed[0]


def test_old_checkpoints_lose_their_names_at_once_and_their_files_beside(tmp_path: Path) -> None:
    verified = Verified()
    for step in range(1, 8):
        newest = folder(tmp_path, step)
        verified.add(newest)
        prune(tmp_path, 2, newest=newest, verified=verified)
        assert manifest.folders(tmp_path) == [
            tmp_path / f"checkpoint-{s}" for s in (step - 1, step) if s
        ]
    verified.removals.wait()
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-6", "checkpoint-7"}


@pytest.mark.parametrize("passing", [".checkpoint-5.old", ".checkpoint-5.tmp"])
def test_a_kill_between_two_renames_loses_nothing(passing: str, tmp_path: Path) -> None:
    folder(tmp_path, 5, name=passing)
    prune(tmp_path, 1)
    assert manifest.latest(tmp_path) == (tmp_path / "checkpoint-5", ())
    assert names(tmp_path) == {"checkpoint-5"}


def test_of_two_on_their_way_the_newer_one_gets_the_name(tmp_path: Path) -> None:
    folder(tmp_path, 5, name=".checkpoint-5.old", noise=1)
    folder(tmp_path, 5, name=".checkpoint-5.tmp", noise=2)
    recover(tmp_path)
    assert names(tmp_path) == {"checkpoint-5"}
    assert manifest.facts(tmp_path / "checkpoint-5").noise == 2


def test_half_written_ones_are_cleared_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    torn = folder(tmp_path, 5, name=".checkpoint-5.tmp")
    (torn / "manifest.json").unlink()
    (torn / ".pytorch_lora_weights.safetensors.tmp").write_bytes(b"half")  # killed in the middle
    folder(tmp_path, 6, name=".checkpoint-6.old")
    folder(tmp_path, 6)  # so it was replaced
    (tmp_path / ".checkpoint-7.old").mkdir()
    (tmp_path / ".checkpoint-7.old" / "diary.txt").write_text("mine")
    (tmp_path / ".checkpoint-8.tmp").write_text("a file")
    (tmp_path / ".checkpoint-9.bak").mkdir()
    recover(tmp_path)
    kept = {"checkpoint-6", ".checkpoint-7.old", ".checkpoint-8.tmp", ".checkpoint-9.bak"}
    assert names(tmp_path) == kept


def test_what_was_read_once_is_read_again_only_after_a_change(tmp_path: Path) -> None:
    verified, path = Verified(), folder(tmp_path, 1)
    assert verified.whole(path)
    (path / "manifest.json").chmod(0o600)  # no bytes, no time of change
    assert verified.whole(path)
    flip(path / "trained.safetensors")
    assert not verified.whole(path)


# What is wrong with a checkpoint's files, and how that is said.
def manifest_of(content: object) -> object:
    return lambda p: (p / "manifest.json").write_text(json.dumps(content))


def state_of(**values: object) -> object:
    def change(p: Path) -> None:
        state = {k: v for k, v in (checkpoints.STATE | values).items() if v is not ...}
        text = json.dumps(state).replace("Infinity", "1e400")
        (p / "state.json").write_text(text)
        checkpoints.seal(p)

    return change


def fifo(p: Path, name: str) -> None:
    import os

    (p / name).unlink()
    os.mkfifo(p / name)


def linked(p: Path, name: str) -> None:
    (p / name).rename(p.parent / name)
    (p / name).symlink_to(p.parent / name)


def grown(p: Path, name: str = "trained.safetensors") -> None:
    with (p / name).open("ab") as f:
        f.truncate(2**41)  # a hole: reading it would take an hour


DAMAGE = {
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (lambda p: (p / "manifest.json").write_text(""), "is empty"),
    "a manifest of nothing": (manifest_of({}), "manifest.json lists no files"),
    "a list": (manifest_of(["state.json"]), "manifest.json lists no files"),
    "not JSON": (lambda p: (p / "manifest.json").write_bytes(b"\xff{"), "is not JSON"),
    "nested deeply": (lambda p: (p / "manifest.json").write_text("[" * 10**5), "is not JSON"),
    "a state without an end": (lambda p: grown(p, "state.json"), "state.json does not have its"),
    "a huge manifest": (lambda p: (p / "manifest.json").write_text(" " * 2**21), "more than"),
    "a way out": (manifest_of({"../../x": "0"}), "names '../../x', which is not a file of the"),
    "an absolute path": (manifest_of({"/etc/passwd": "0"}), "names '/etc/passwd'"),
    "no checksum": (manifest_of({"state.json": 3}), "has no checksum for 'state.json'"),
    "one file is listed": (
        lambda p: (
            (p / "run.json").unlink(), (p / "trained.safetensors").unlink(), checkpoints.seal(p)
        ),
        "does not list trained.safetensors",
    ),
    "manifest is a FIFO": (lambda p: fifo(p, "manifest.json"), "is not a regular file"),
    "state is a FIFO": (lambda p: fifo(p, "state.json"), "is not a regular file"),
    "weights are linked": (lambda p: linked(p, "trained.safetensors"), "is a symbolic link"),
    "manifest is linked": (lambda p: linked(p, "manifest.json"), "is a symbolic link"),
    "a folder for a file": (
        lambda p: ((p / "state.json").unlink(), (p / "state.json").mkdir()),
        "is not a regular file",
    ),
    "a terabyte of holes": (grown, "trained.safetensors does not have its checksum"),
    "half a file": (
        lambda p: (p / "trained.safetensors").write_bytes(b"torn"),
        "trained.safetensors does not have its checksum",
    ),
    "no step": (state_of(step=...), "state.json has no `step`"),
    "a word for a step": (state_of(step="abc"), "`step` is 'abc'"),
    "a negative step": (state_of(step=-1), "`step` is -1"),
    "an infinite step": (state_of(step=float("inf")), "`step` is inf"),
    "yes for a step": (state_of(step=True), "`step` is True"),
    "a position beyond numbers": (state_of(position=10**40), "`position` is 1000"),
    "another checkpoint's step": (state_of(step=3), "it was renamed: state.json is of step 3"),
    "a position that years of training do not reach": (
        state_of(position=2**62), f"`position` is {2**62} at step 1",
    ),
    "neither manifest nor weights": (
        lambda p: ((p / "manifest.json").unlink(), (p / "trained.safetensors").unlink()),
        "manifest.json is missing",
    ),
    "losses of words": (state_of(recent_losses=["a"]), "`recent_losses.0` is 'a'"),
    "a scaler of words": (state_of(scaler={"scale": "a"}), "`scaler.scale"),
    "an optimizer that is a list": (state_of(optimizer=[]), "`optimizer` is []"),
    "another format": (state_of(format=3), "its format is 3, this sd3tune reads 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_one_sentence(kind: str, tmp_path: Path) -> None:
    break_it, expected = DAMAGE[kind]
    path = folder(tmp_path / "output", 1)
    assert manifest.damage(path) is None and manifest.is_ours(path, "a")
    break_it(path)  # type: ignore[operator]
    why = manifest.damage(path)
    assert why is not None and expected in why and "\n" not in why
    assert manifest.latest(path.parent)[0] is None
    assert manifest.damaged(path.parent) == [f"checkpoint-1: {why}"]
    prune(path.parent, 1, newest=folder(path.parent, 2))
    assert "checkpoint-1" in names(path.parent)


def test_names_that_are_not_ours_are_not_steps() -> None:
    steps = {"checkpoint-5": 5, "checkpoint-05": 5, "checkpoint-5-rolling": 5, "checkpoint-5-2": 5,
             "checkpoint-²": -1, "checkpoint--5": -1, "checkpoint-5 ": -1, "checkpoint-": -1,
             "checkpoint-5-old": -1, f"checkpoint-{'9' * 5000}": -1}  # fmt: skip
    assert {name: manifest.step_of(Path(name)) for name in steps} == steps
