"""Several machines: they train one thing or stop, and who starts them starts them again."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from sd3tune.backends.processes import ALONE
from sd3tune.errors import CheckpointError
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


def test_a_launcher_of_several_machines_leaves_starting_again_to_who_started_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def killed(*words: object) -> None:
        asked.append(words)
        failure = SimpleNamespace(exitcode=-9, timestamp=0, local_rank=0, pid=1, message="")
        raise ChildFailedError("sd3tune", {0: failure})  # type: ignore[dict-item]

    monkeypatch.setattr("torch.distributed.launcher.api.launch_agent", killed)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr("os.environ", dict(os.environ))
    for machines, attempts in ((launch.Machines(2), 1), (launch.Machines(1), 4)):
        asked.clear()
        assert launch.launch(1, machines, ["config.json"]) == 137
        assert len(asked) == attempts
    assert "hint: start the command again on every machine" in capsys.readouterr().err
