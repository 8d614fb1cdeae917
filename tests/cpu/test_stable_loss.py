"""The evaluation loss during training: fixed, the same after a resume and in several processes, and
without a trace in training; the best checkpoint and an early end follow from it."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sd3tune import backends
from sd3tune.cli.finished_lines import finished, finished_lines
from sd3tune.cli.outcome_lines import outcome_lines
from sd3tune.encode.everything import filled, make_output
from sd3tune.formats import manifest
from sd3tune.prepare import Prepared
from sd3tune.processes.environment import Processes
from sd3tune.processes.world import ALONE_ON_CPU, World
from sd3tune.report.events import Evaluated, Event
from sd3tune.report.stream import Stream
from sd3tune.train.begin import begin
from sd3tune.train.recipe import Recipe
from sd3tune.train.run import train
from sd3tune.train.stable_loss import StableLoss
from sd3tune.train.state import TrainState
from tests.cpu.conftest import Project

EVALUATED = ("eval_steps_interval=2", "num_eval_images=3", "keep_best_checkpoint=true")
STEADY = ("lr_scheduler=constant", "lr_warmup_steps=0", "learning_rate=1e-2", "lora_dropout=0.2")
STILL = ("lr_scheduler=constant", "lr_warmup_steps=0", "learning_rate=1e-30")  # weights stay
CPU = torch.device("cpu")


@dataclass
class Recorder:
    """A sink that keeps what it receives."""

    name: str = "recorder"
    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is left to write."""


def with_evaluation(demo: Path, root: Path) -> Project:
    """Training images, and two `eval` datasets, one of them with masks."""
    project = Project(root, demo / "models" / "sd3.5-medium")
    for i in range(4):
        project.picture(f"{i}.png", i)
        project.picture(f"../seen/{i}.png", 40 + i)
        project.picture(f"../masks/{i}.png", 60 + i).with_suffix(".txt").unlink()
    project.picture("../other/0.png", 80)
    base = {k: project.dataset[k] for k in ("resolution", "caption_strategy")}
    project.others += [
        {"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask",
         "instance_data_dir": "masks"},
        {"id": "seen", "instance_data_dir": "seen", "dataset_type": "eval",
         "conditioning_data": ["m"], **base},
        {"id": "other", "instance_data_dir": "other", "dataset_type": "eval", **base},
    ]  # fmt: skip
    return project


@pytest.fixture(scope="module")
def project(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return with_evaluation(demo, tmp_path_factory.mktemp("evaluated"))


def state_of(output: Path, step: int) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((output / f"checkpoint-{step}" / "state.json").read_text())
    return held


def losses(output: Path) -> list[float]:
    rows = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@dataclass(frozen=True)
class Loaded:
    """What measures the loss: a state and its stream, as a run has them before its first step."""

    prepared: Prepared
    state: TrainState
    recorder: Recorder
    loss: StableLoss

    @classmethod
    def of(cls, prepared: Prepared, world: World = ALONE_ON_CPU) -> "Loaded":
        plan, recorder = prepared.plan, Recorder()
        make_output(plan.output_dir)
        vendor = backends.module(plan.facts.vendor)
        caches = filled(prepared, [], CPU, vendor, ALONE_ON_CPU)
        assert plan.evaluation is not None
        loss = StableLoss.of(plan.evaluation, caches, Recipe.of(plan), world, Stream([recorder]))
        return cls(prepared, begin(plan, ALONE_ON_CPU), recorder, loss)

    @property
    def evaluated(self) -> list[Evaluated]:
        return [e for e in self.recorder.events if isinstance(e, Evaluated)]


@pytest.mark.slow
def test_training_is_the_same_with_and_without_and_the_loss_is_the_same_after_a_resume(
    project: Project, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(project.prepare(*STEADY, *EVALUATED, "max_train_steps=6", f"output_dir={whole}"), [])
    train(project.prepare(*STEADY, "max_train_steps=3", f"output_dir={parts}"), [])
    assert state_of(parts, 3)["evaluations"] == []
    train(project.prepare(*STEADY, *EVALUATED, "max_train_steps=6", f"output_dir={parts}"), [])
    assert losses(parts) == losses(whole) and len(losses(whole)) == 6
    for name in ("trained", "optimizer"):
        files = [(o / "checkpoint-6" / f"{name}.safetensors").read_bytes() for o in (whole, parts)]
        assert files[0] == files[1]
    history = state_of(whole, 6)["evaluations"]
    assert [step for step, _ in history] == [2, 4, 6]
    assert state_of(parts, 6)["evaluations"] == history[1:]  # bit for bit, through JSON
    lowest = min(history, key=lambda each: each[1])[0]
    assert [f.name for f in manifest.folders(whole) if manifest.kind_of(f) == "best"] == [
        f"checkpoint-{lowest}-best"
    ]


@pytest.mark.slow
def test_a_loss_that_no_longer_falls_ends_the_run_and_the_best_checkpoint_stays(
    project: Project, tmp_path: Path
) -> None:
    words = (*STILL, "eval_steps_interval=1", "early_stopping_patience=2", "max_train_steps=9",
             "checkpoint_step_interval=1", "checkpoints_total_limit=1", "eval_timesteps=2",
             "eval_dataset_id=other", f"output_dir={tmp_path}")  # fmt: skip
    outcome = train(project.prepare(*words), [])
    assert outcome.step == 3 and outcome.steps == 9
    assert {f.name for f in manifest.folders(tmp_path)} == {"checkpoint-1-best", "checkpoint-3"}
    assert outcome.ending.best == tmp_path / "checkpoint-1-best"
    said = "\n".join(map(str, outcome_lines(outcome)))
    assert "steps            3 of 9" in said and "no lower evaluation loss in 2 evaluations" in said
    plan = project.prepare(*words).plan
    result = finished(plan)
    assert result == outcome.adapter and result is not None
    assert "early_stopping_patience above 2" in finished_lines(plan, result)[2]
    more = project.prepare(*words, "early_stopping_patience=3")
    assert finished(more.plan) is None
    assert train(more, []).step == 4


def test_the_figure_is_that_of_the_fixed_images_levels_and_masks(
    project: Project, tmp_path: Path
) -> None:
    words = (*EVALUATED, "eval_timesteps=2", f"output_dir={tmp_path}", "flow_schedule_auto_shift=1")
    masked = Loaded.of(project.prepare(*words, "masked_loss_probability=1"))
    generators = torch.get_rng_state()
    training = masked.state.model.train()
    figure = masked.loss.measure(masked.state)
    assert torch.equal(torch.get_rng_state(), generators) and training.training
    seen, other = masked.evaluated
    assert (seen.dataset, other.dataset) == ("seen", "other") and not seen.trained_on
    assert list(seen.by_level) == [0.25, 0.75] and seen.step == 0
    assert seen.loss == pytest.approx(sum(seen.by_level.values()) / 2)
    assert figure == pytest.approx((3 * seen.loss + other.loss) / 4)
    assert figure == masked.loss.measure(masked.state) == figure
    plain = replace(masked.loss, recipe=replace(masked.loss.recipe, loss=replace(
        masked.loss.recipe.loss, masked=0.0)))  # fmt: skip
    plain.measure(masked.state)
    unmasked = masked.evaluated[-2:]
    assert unmasked[0].loss != seen.loss and unmasked[1].loss == other.loss
    pooled = replace(plain, how=replace(plain.how, pooled=True))
    together = pooled.measure(masked.state)
    assert masked.evaluated[-1].dataset == "pooled" and masked.evaluated[-1].loss == together
    assert len(masked.evaluated) == 7


def test_the_parts_of_two_processes_are_those_of_one(project: Project, tmp_path: Path) -> None:
    words = (*EVALUATED, f"output_dir={tmp_path}")
    alone = Loaded.of(project.prepare(*words))
    figure, measured = alone.loss.measure(alone.state), set()
    for rank in (0, 1):
        part = Loaded.of(project.prepare(*words), World(Processes(rank, 2), CPU))
        measured |= {(rank, i.number) for i in part.loss.images if i.batch is not None}
        assert len(part.loss.images) == len(alone.loss.images)
    assert measured == {(0, 0), (1, 1), (0, 2), (1, 3)} and figure > 0


@pytest.mark.slow
@pytest.mark.parametrize("split", [(), ("model_type=full", "fsdp_enable=true")])
def test_two_processes_measure_the_loss_of_one_bit_for_bit(
    split: tuple[str, ...], demo: Path, tmp_path: Path
) -> None:
    project = with_evaluation(demo, tmp_path)
    words = (*STILL, *EVALUATED, "max_train_steps=2", "eval_timesteps=3", *split)
    train(project.prepare(*words, "fsdp_enable=false", f"output_dir={tmp_path / 'one'}"), [])
    command = [sys.executable, "-m", "sd3tune", "train", str(project.write()), *words,
               f"output_dir={tmp_path / 'two'}", "--nproc", "2"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    one, two = (state_of(tmp_path / name, 2)["evaluations"] for name in ("one", "two"))
    assert one == two and len(one) == 1
