"""Several machines: what keeps one attempt apart from the next, and machines from drifting apart."""

from typing import Any

import pytest
import torch
from torch.distributed import DistNetworkError

from sd3tune.backends.processes import ALONE
from sd3tune.errors import CheckpointError, PeerLost
from sd3tune.train import launch
from sd3tune.train.begin import begin
from sd3tune.train.world import World
from tests.cpu.conftest import Train


class Pair(World):
    """Beside a machine that sees no checkpoint."""

    def gathered(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*items, 0)


def test_processes_that_resume_at_different_steps_are_refused(run: Train, prepared: Any) -> None:
    run("max_train_steps=1", "lr_warmup_steps=0")
    plan = prepared("max_train_steps=2", "lr_warmup_steps=0").plan
    with pytest.raises(CheckpointError, match="begin at different steps: 1, 0") as e:
        begin(plan, Pair(ALONE, torch.device("cpu")))
    assert f"output_dir; here it is {plan.config.output_dir}" in e.value.hint


def test_an_attempt_does_not_read_the_keys_of_the_one_before() -> None:
    two = launch.Machines(2, 1, "10.0.0.1", 29500)
    first, second = (launch._agent(1, two, restarts) for restarts in (0, 1))
    assert first.run_id != second.run_id  # type: ignore[attr-defined]
    other = launch._agent(1, launch.Machines(2, 0, "10.0.0.1", 29500), 1)
    assert other.run_id == second.run_id  # type: ignore[attr-defined]


def test_a_meeting_place_that_is_being_closed_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def closing(*words: object) -> None:
        asked.append(words)
        if len(asked) == 1:
            raise DistNetworkError("Failed to recv, got 0 bytes")

    monkeypatch.setattr("torch.distributed.launcher.api.launch_agent", closing)
    monkeypatch.setattr(launch, "AGAIN_SECONDS", 0)
    launch._attempt(object(), ["config.json"])
    assert len(asked) == 2
    monkeypatch.setattr(launch, "MEET_SECONDS", -1)
    asked.clear()
    with pytest.raises(PeerLost, match="do not find each other: Failed to recv"):
        launch._attempt(object(), ["config.json"])
