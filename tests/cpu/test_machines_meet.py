"""Several machines: they train one thing or stop, and who starts them starts them again."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from sd3tune.errors import CheckpointError
from sd3tune.processes import launch
from sd3tune.processes.environment import ALONE
from sd3tune.processes.world import World
from sd3tune.train.begin import begin
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
    assert f"output_dir; here it is {plan.output_dir}" in e.value.hint


def test_a_launcher_of_several_machines_leaves_starting_again_to_who_started_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = []

    def killed(*words: object) -> None:
        asked.append(words)
        raise ChildFailedError("sd3tune", {0: ProcessFailure(0, 1, -9, str(tmp_path / "none"))})

    monkeypatch.setattr("torch.distributed.launcher.api.launch_agent", killed)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setattr("os.environ", dict(os.environ))
    for machines, attempts in ((launch.Machines(2), 1), (launch.Machines(1), 4)):
        asked.clear()
        assert launch.launch(1, machines, ["config.json"]) == 137
        assert len(asked) == attempts
    assert "hint: start the command again on every machine" in capsys.readouterr().err
