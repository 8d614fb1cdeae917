"""Where a run begins: what it leaves behind is moved aside, and the same command continues."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd3tune.errors import CheckpointError, DiskError
from sd3tune.formats import manifest
from sd3tune.processes.environment import ALONE
from sd3tune.processes.world import ALONE_ON_CPU, World
from sd3tune.report.event_lines import read, standing
from sd3tune.train import checkpoint
from sd3tune.train.begin import begin
from sd3tune.train.resume import beginning, decided, put_away
from tests.checkpoints import flip, foreign, names, seal
from tests.cpu.conftest import Train

WORDS = ("lr_warmup_steps=0", "train_batch_size=2", "checkpoint_step_interval=1",
         "checkpoints_total_limit=9")  # fmt: skip


def steps(file: Path) -> list[int]:
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_going_back_moves_the_branch_aside_and_the_same_command_goes_on(
    run: Train, prepared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, earlier = tmp_path / "output", tmp_path / "output" / "earlier-1"
    run(*WORDS, "max_train_steps=4")
    before = content(output)
    back = (*WORDS, "resume_from_checkpoint=checkpoint-2")
    capsys.readouterr()
    run(*back, "max_train_steps=3", "learning_rate=1e-2")
    assert (
        f"moved    2 checkpoints and metrics beyond step 2 to {earlier}" in capsys.readouterr().err
    )
    left = {"checkpoint-3", "checkpoint-4", "metrics.jsonl"}
    assert names(earlier) == left and steps(earlier / "metrics.jsonl") == [3, 4]
    events = standing(read(output / "events.jsonl")[0])  # the two parts have ids of one run
    first, second = (e["run"] for e in events if e["event"] == "run.started")
    assert second.startswith(f"{first}-") and len(first) == 32
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [1, 2, 3]
    after = content(earlier)
    assert all(before[f"{name}"] == after[name] for name in after if name != "metrics.jsonl")
    assert steps(output / "metrics.jsonl") == [1, 2, 3]
    # A launcher that starts the same command again, and who leaves --resume out: the new branch.
    for words in (back, WORDS):
        state = begin(prepared(*words, "max_train_steps=9").plan, ALONE_ON_CPU)
        assert state.step == 3 and "earlier-2" not in names(output)
    assert "checkpoint-3` went on from checkpoint-2, so it is continued" in capsys.readouterr().err
    # Also when checkpoint-2 is gone by then, as a low limit makes it.
    shutil.rmtree(output / "checkpoint-2")
    assert begin(prepared(*back, "max_train_steps=9").plan, ALONE_ON_CPU).step == 3
    # Back to a step of the branch that was left: this one is put away as a whole.
    there = (*WORDS, f"resume_from_checkpoint={earlier / 'checkpoint-4'}", "max_train_steps=9")
    assert begin(prepared(*there).plan, ALONE_ON_CPU).step == 4
    assert names(output / "earlier-2") == {"checkpoint-1", "checkpoint-3", "metrics.jsonl"}
    assert "checkpoint-4" in names(output)  # a copy: who leaves --resume out continues there
    assert begin(prepared(*WORDS, "max_train_steps=9").plan, ALONE_ON_CPU).step == 4
    assert begin(prepared(*there).plan, ALONE_ON_CPU).step == 4 and "earlier-3" not in names(output)
    # To step 1 of a branch in which nothing went on from it: a wish, and not a restart.
    (output / "earlier-2" / "checkpoint-1").rename(output / "checkpoint-1")
    one = (*WORDS, "resume_from_checkpoint=checkpoint-1", "max_train_steps=9")
    assert begin(prepared(*one).plan, ALONE_ON_CPU).step == 1
    assert names(output / "earlier-3") == {"checkpoint-4"}


def test_a_kill_while_checkpoints_move_loses_nothing(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run(*WORDS, "max_train_steps=4")
    before = content(output)
    put_away(output, beyond=3)  # as far as it came; the highest goes first
    assert manifest.latest(output)[0] == output / "checkpoint-3"
    plan = prepared(*WORDS, "max_train_steps=4", "resume_from_checkpoint=checkpoint-2").plan
    assert begin(plan, ALONE_ON_CPU).step == 2
    assert names(output / "earlier-1") | names(output / "earlier-2") >= {
        "checkpoint-3",
        "checkpoint-4",
    }
    assert steps(output / "earlier-2" / "metrics.jsonl") == [3, 4]
    everything = set(content(output).values())
    assert all(data in everything for name, data in before.items() if "checkpoint" in name)


def test_a_checkpoint_that_cannot_be_resumed_moves_nothing(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run(*WORDS, "max_train_steps=3")
    flip(output / "checkpoint-2" / "trained.safetensors")
    before = content(output)
    for words in (("resume_from_checkpoint=checkpoint-2",),
                  ("resume_from_checkpoint=checkpoint-1", "lora_rank=2")):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"does not have its checksum|lora_rank=8, this"):
            begin(prepared(*WORDS, "max_train_steps=4", *words).plan, ALONE_ON_CPU)
    assert content(output) == before


@pytest.mark.slow
def test_when_every_checkpoint_is_damaged_the_run_is_refused_and_nothing_is_cut(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run(*WORDS, "max_train_steps=3")
    foreign(output, 500)
    flip(output / "checkpoint-1" / "optimizer.safetensors")
    (output / "checkpoint-2" / "state.json").unlink()
    (output / "checkpoint-3" / "manifest.json").write_text("{}")
    before = content(output)
    with pytest.raises(CheckpointError) as refused:
        begin(prepared(*WORDS, "max_train_steps=4").plan, ALONE_ON_CPU)
    assert str(refused.value) == (
        f"no checkpoint in `{output}` is whole: checkpoint-3: manifest.json lists no files; "
        "checkpoint-2: state.json is missing; checkpoint-1: optimizer.safetensors does not have "
        "its checksum"
    )
    assert "--resume never" in refused.value.hint and content(output) == before
    never = prepared(*WORDS, "max_train_steps=4", "resume_from_checkpoint=never").plan
    assert begin(never, ALONE_ON_CPU).step == 0
    assert names(output / "earlier-1") == {"checkpoint-1", "checkpoint-2", "metrics.jsonl"}
    # What has no manifest of ours stays where it is, and its name is not taken from it.
    assert {"checkpoint-500", "checkpoint-3"} <= names(output)
    run(*WORDS, "max_train_steps=3", "resume_from_checkpoint=never")
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3-2"} <= names(output)
    assert (output / "checkpoint-3" / "manifest.json").read_text() == "{}"
    assert manifest.latest(output)[0] == output / "checkpoint-3-2"


@pytest.mark.slow
def test_metrics_of_an_earlier_run_are_moved_aside_and_those_of_strangers_refused(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run(*WORDS, "max_train_steps=2")
    log = (output / "metrics.jsonl").read_bytes()
    run(*WORDS, "max_train_steps=1", "resume_from_checkpoint=never")
    assert (output / "earlier-1" / "metrics.jsonl").read_bytes() == log
    shutil.rmtree(output / "checkpoint-1")  # nothing to continue, and rows of before
    run(*WORDS, "max_train_steps=1")
    assert steps(output / "earlier-2" / "metrics.jsonl") == steps(output / "metrics.jsonl") == [1]
    (output / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    for asked in ("latest", "never"):
        with pytest.raises(DiskError, match="does not hold metrics"):
            prepared(*WORDS, "max_train_steps=1", f"resume_from_checkpoint={asked}")


@pytest.fixture
def saved(prepared: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A state after a step of AdamW, and its checkpoint."""
    state = begin(prepared(*WORDS, "max_train_steps=4", "use_ema=true").plan, ALONE_ON_CPU)
    for parameter in state.trainable:
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.step = 1
    return state, checkpoint.save(state, tmp_path / "saved", "{}")


def transposed(folder: Path, file: str, part: str) -> None:
    tensors = load_file(folder / file)
    name = next(n for n in tensors if part in n)
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, folder / file)


def without(folder: Path, file: str, part: str) -> None:
    tensors = load_file(folder / file)
    del tensors[next(n for n in tensors if part in n)]
    save_file(tensors, folder / file)


def state_with(folder: Path, change: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    change(state["optimizer"])
    (folder / "state.json").write_text(json.dumps(state))


# With their checksums, and still not a state of this run.
UNFIT: dict[str, Callable[[Path], object]] = {
    "weights": lambda f: transposed(f, "trained.safetensors", ""),
    "moments": lambda f: transposed(f, "optimizer.safetensors", "exp_avg"),
    "average": lambda f: transposed(f, "ema.safetensors", ""),
    "a weight less": lambda f: without(f, "trained.safetensors", ""),
    "a moment less": lambda f: without(f, "optimizer.safetensors", "exp_avg"),
    "an average less": lambda f: without(f, "ema.safetensors", ""),
    "no tensors": lambda f: (f / "trained.safetensors").write_bytes(b"not tensors"),
    "no groups": lambda f: state_with(f, lambda o: o.clear()),
    "a parameter less": lambda f: state_with(f, lambda o: o["param_groups"][0]["params"].pop()),
    "a word for a number": lambda f: state_with(f, lambda o: o["param_groups"][0].update(eps="x")),
    "a class of strangers": lambda f: state_with(
        f, lambda o: o["state"].update({"0": {"tensor class": "os:system", "parts": {}}})
    ),
}


def test_an_option_that_is_newer_than_the_checkpoint_keeps_its_value(
    saved: tuple[Any, Path],
) -> None:
    state, folder = saved
    state_with(folder, lambda o: o["param_groups"][0].pop("betas"))
    seal(folder)
    checkpoint.load(state, folder)
    assert state.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_what_has_its_checksums_and_does_not_fit_is_an_error_in_one_line(
    saved: tuple[Any, Path], tmp_path: Path
) -> None:
    state, folder = saved
    checkpoint.load(state, folder)
    for kind, change in UNFIT.items():
        changed = shutil.copytree(folder, tmp_path / kind)
        change(changed)
        seal(changed)
        with pytest.raises(CheckpointError) as refused:
            checkpoint.load(state, changed)
        assert "\n" not in str(refused.value) and "never" in refused.value.hint, kind


@pytest.mark.slow
def test_a_checkpoint_of_before_continues_and_its_run_gets_a_name(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    run(*WORDS, "max_train_steps=2")
    folder = tmp_path / "output" / "checkpoint-2"
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / "output" / name / "run.json").unlink()
        seal(tmp_path / "output" / name)
    assert manifest.damage(folder) is None and not manifest.lineage(folder).run
    run(*WORDS, "max_train_steps=4", "checkpoints_total_limit=2")
    assert {p.name for p in manifest.folders(tmp_path / "output")} == {
        "checkpoint-3",
        "checkpoint-4",
    }
    assert manifest.lineage(tmp_path / "output" / "checkpoint-4").run


class Second(World):
    """The second process of a run whose first one has answered."""

    main = False
    answer: Any = None

    def gathered(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.answer, *items)


def test_all_processes_do_as_the_first_one_decides(tmp_path: Path) -> None:
    world = Second(ALONE, torch.device("cpu"))
    Second.answer = tmp_path
    assert decided(world, lambda: pytest.fail("asked")) == tmp_path
    Second.answer = ("no checkpoint is whole", "start afresh")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        decided(world, lambda: pytest.fail("asked"))


def test_a_run_that_its_launcher_starts_again_does_not_start_afresh(
    run: Train, prepared: Any
) -> None:
    run(*WORDS, "max_train_steps=2")
    output = prepared(*WORDS, "max_train_steps=3").plan.output_dir
    again = beginning("never", output, restarted=True)
    assert again.folder == output / "checkpoint-2"
    assert beginning("never", output, restarted=False).folder is None


@pytest.mark.parametrize("taken", ["checkpoint-1", ".checkpoint-1.tmp"])
def test_a_name_that_somebody_else_has_is_left_to_them(
    taken: str, saved: tuple[Any, Path], tmp_path: Path
) -> None:
    (tmp_path / "output" / taken).mkdir(parents=True)
    (tmp_path / "output" / taken / "diary.txt").write_text("mine")
    for _ in range(2):  # the second replaces the first
        assert checkpoint.save(saved[0], tmp_path / "output", "{}").name == "checkpoint-1-2"
    assert names(tmp_path / "output") == {taken, "checkpoint-1-2"}
    assert manifest.latest(tmp_path / "output")[0] == tmp_path / "output" / "checkpoint-1-2"


def test_beside_folders_that_are_not_ours_a_run_begins_at_step_0(
    prepared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(tmp_path / "output", 500)
    torn = tmp_path / "output" / "checkpoint-9"
    torn.mkdir()
    (torn / "state.json").write_text("{}")
    assert begin(prepared(*WORDS, "max_train_steps=1").plan, ALONE_ON_CPU).step == 0
    said = capsys.readouterr().err
    assert said.count("is not a checkpoint of sd3tune, and is left alone") == 2


def test_a_launcher_that_names_the_newest_checkpoint_again_and_again_clutters_nothing(
    run: Train, prepared: Any, tmp_path: Path
) -> None:
    run(*WORDS, "max_train_steps=2")
    shutil.rmtree(tmp_path / "output" / "checkpoint-2")  # killed before it was written
    plan = prepared(*WORDS, "max_train_steps=2", "resume_from_checkpoint=checkpoint-1").plan
    for _ in range(2):
        assert begin(plan, ALONE_ON_CPU).step == 1
    assert not list((tmp_path / "output").glob("earlier-*"))
