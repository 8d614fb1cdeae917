"""`sd3tune train A B C` before anything is loaded: which words are configurations, which runs share
a base model, and what the table says. Whole queues are in tests/cpu/test_queues.py."""

from pathlib import Path
from typing import Any

import pytest

from sd3tune.cli.queue_lines import QueuedResult, duration, queue_lines
from sd3tune.cli.train_queue import configurations, is_queue, refuse_launchers
from sd3tune.errors import ConfigError
from sd3tune.plan.shared_base import base_key
from tests.commands import exit_code
from tests.plans import LARGE, MEDIUM, plan
from tests.projects import Project


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["a.json", "b.toml", "lora_rank=4"], ["a.json", "b.toml"]),
        (["lora_rank=4", "a.env", "b.json"], ["a.env", "b.json"]),
        (["a.json", "lycoris_config=other.json"], ["a.json"]),
        (["here=there.json", "b.json"], ["here=there.json", "b.json"]),
        (["folder", "b.json"], ["folder", "b.json"]),
        (["lora_rank=4"], []),
        ([], []),
    ],
)
def test_a_configuration_exists_or_ends_as_one(
    words: list[str], files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here=there.json").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert configurations(words) == (files, tuple(w for w in words if w not in files))
    assert is_queue(words) == (len(files) > 1)


def test_problems_of_all_configurations_are_shown_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    configs = []
    for name, wrong in (("one", {"lora_rank": -1}), ("two", {"resolution": "wide"})):
        (tmp_path / name).mkdir()
        Project(tmp_path / name).config(**wrong)
        configs.append(str(tmp_path / name / "config" / "config.json"))
    assert exit_code(["train", *configs], monkeypatch) == 1
    err = capfd.readouterr().err
    assert f"error: `{configs[0]}:" in err and err.count(configs[0]) == 1 and "lora_rank" in err
    assert f"error: `{configs[1]}:" in err and err.count(configs[1]) == 1 and "resolution" in err
    assert not (tmp_path / "one" / "output").exists()


def test_a_configuration_that_is_missing_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = [str(tmp_path / name) for name in ("one.json", "two.json")]
    assert exit_code(["train", *missing], monkeypatch) == 1
    err = capfd.readouterr().err
    assert [err.count(f"no such configuration file: `{name}`") for name in missing] == [1, 1]
    assert [err.count(name) for name in missing] == [1, 1]


def test_a_launcher_of_processes_starts_one_run() -> None:
    refuse_launchers({})
    with pytest.raises(ConfigError, match="several configurations"):
        refuse_launchers({"WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 1e-3},
        {"lora_rank": 64},
        {"seed": 7},
        {"max_train_steps": 99},
        {"resolution": 768},
        {"optimizer": "adamw"},
        {"use_dora": True},
        {"lora_init_type": "gaussian"},
    ],
    ids=str,
)
def test_runs_that_differ_in_what_is_trained_share_a_base(settings: dict[str, Any]) -> None:
    key = base_key(plan("h200"))
    assert key is not None and base_key(plan("h200", **settings)) == key


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (LARGE, {}),
        (MEDIUM, {"base_model_precision": "int8-quanto"}),
        (MEDIUM, {"mixed_precision": "no", "base_model_default_dtype": "fp32"}),
        (MEDIUM, {"deterministic": True}),
        (MEDIUM, {"revision": "abc"}),
    ],
    ids=str,
)
def test_runs_with_other_weights_do_not(model: str, settings: dict[str, Any]) -> None:
    other = base_key(plan("h200", model, **settings))
    assert other is not None and other != base_key(plan("h200"))


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "full"},
        {"lora_init_type": "pissa"},
        {"lora_init_type": "olora"},
        {"blocks_to_swap": 4, "gradient_checkpointing": True},
        {"dynamo_backend": "inductor"},
    ],
    ids=str,
)
def test_runs_that_change_their_base_share_none(settings: dict[str, Any]) -> None:
    assert base_key(plan("h200", **settings)) is None


def test_the_table_names_every_run_with_its_result() -> None:
    results = [
        QueuedResult("a.json", "finished", 0, "4 of 4", 0.5, 0.25, "out/a", 89),
        QueuedResult("b.json", "failed", 1, output="out/b", seconds=3),
        QueuedResult("c.json", "not started", None),
    ]
    assert queue_lines(results) == [
        "queue of 3 runs",
        (
            "  finished     a.json",
            "steps 4 of 4; loss 0.5000 before, 0.2500 after; 1 min 29 s; out/a",
        ),
        ("  failed       b.json", "exit code 1; 3 s; out/b"),
        "  not started  c.json",
    ]
    assert [duration(s) for s in (59.4, 60, 7500)] == ["59 s", "1 min 0 s", "2 h 5 min"]
