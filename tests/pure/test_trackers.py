"""Trackers before training: which are used, under which names, and what is refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.config.config import Config
from sd3tune.config.rules.contradictions import repository_name
from sd3tune.config.secret_values import SecretValues
from sd3tune.errors import ConfigError, PlanError
from sd3tune.plan.describe import describe
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.reporting import ReportingPlan, reporting_plan, wandb_mode
from sd3tune.sd3.models import find
from tests.plans import MEDIUM, plan, samples
from tests.projects import Project

NAMES = ("tensorboard", "wandb", "trackio")


def reporting(
    without: tuple[str, ...] = (), environ: Mapping[str, str] = {}, **settings: Any
) -> ReportingPlan:
    """On a machine with every tracker but these."""
    facts = chips.facts(chips.chip("l4"))
    packages = {k: v for k, v in facts.packages.items() if k not in without}
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    facts = replace(facts, packages=packages)
    inputs = RunInputs(Config(**values), facts, find(MEDIUM), samples())
    return reporting_plan(inputs, "my-run", environ)


@pytest.mark.parametrize(
    "written, names",
    [
        ("none", ()), ([], ()), ("wandb", ("wandb",)), ("all", NAMES),
        ("tensorboard,wandb", ("tensorboard", "wandb")),
        ("[trackio, tensorboard]", ("trackio", "tensorboard")),
        ('["wandb"]', ("wandb",)), (["wandb", "wandb", "trackio"], ("wandb", "trackio")),
    ],
)  # fmt: skip
def test_report_to_takes_one_several_all_or_none(written: Any, names: tuple[str, ...]) -> None:
    assert reporting(report_to=written).trackers.value == names


@pytest.mark.parametrize(
    "value, words",
    [
        ("swanlab", "swanlab` is not supported: nothing here can|use report_to=wandb or tensor"),
        ("comet_ml", "comet_ml` is not supported|use report_to=wandb or tensorboard"),
        ("simpletuner", "SimpleTuner's own page|`sd3tune watch` shows|use report_to=none"),
        ("custom-tracker", "runs a Python file of yours|events.jsonl|use report_to=none"),
        ("wandbb", "must be one of 'tensorboard', 'wandb', 'trackio'|"),
        ("WandB", "must be written in small letters|use report_to=wandb"),
        ("tensorboard,comet_ml", "is not supported|use report_to=wandb or tensorboard"),
        ("none,wandb", "names `none` beside others|one or the other"),
        (["all", "wandb"], "names `all` beside others|one or the other"),
        (5, "must be a name or a list of names|"),
        ({"a": 1}, "must be a name or a list of names|"),
    ],
)
def test_other_trackers_are_refused_by_name_with_what_to_write(
    value: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Project(tmp_path).config(report_to=value)
    with pytest.raises(ConfigError) as refused:
        Config.load(Path("config/config.json"))
    said = f"{refused.value} {refused.value.hint}"
    assert "config.json" in said and "report_to" in said
    assert all(part in said for part in words.split("|")), said


def test_a_tracker_that_is_named_must_be_installed() -> None:
    with pytest.raises(PlanError) as refused:
        reporting(("wandb", "trackio"), report_to="tensorboard,wandb,trackio")
    assert "`report_to=wandb`: the package wandb is not installed" in str(refused.value)
    assert "pip install 'sd3tune[wandb]'" in str(refused.value)
    assert "`report_to=trackio`" in str(refused.value) and "leave it out" in refused.value.hint


def test_all_takes_those_that_are_installed_and_lists_the_others() -> None:
    chosen = reporting(("wandb",), report_to="all").trackers
    assert chosen.value == ("tensorboard", "trackio")
    assert [r.name for r in chosen.rejected] == ["wandb"]
    assert "not installed" in chosen.rejected[0].reasons[0]
    nothing = reporting(NAMES, report_to="all").trackers
    assert nothing.value == () and nothing.reason == "no tracker is installed"


def test_the_plan_says_where_to_look() -> None:
    shown = describe(plan("l4", report_to="all", tracker_project_name="cats"))["decisions"]
    assert shown["report_to"]["value"] == "tensorboard,wandb,trackio"
    assert "tensorboard --logdir o/logs/tensorboard" in shown["report_to"]["reason"]
    assert "trackio show --project cats" in shown["report_to"]["reason"]
    assert shown["wandb_mode"]["value"] in ("online", "offline")
    quiet = describe(plan("l4"))["decisions"]
    assert quiet["report_to"]["value"] == "none" and "wandb_mode" not in quiet
    assert "metrics.jsonl" in quiet["report_to"]["reason"]


def test_names_and_folder_are_as_set_or_follow_from_the_run() -> None:
    made = reporting(report_to="all")
    assert (made.project, made.run_name, made.layout) == ("sd3tune", "my-run", "gallery")
    assert made.folder == Path("o/logs")
    made = reporting(
        report_to="all", tracker_project_name=" cats ", tracker_run_name="first try",
        tracker_image_layout="table", logging_dir="/data/logs",
    )  # fmt: skip
    assert (made.project, made.run_name, made.layout) == ("cats", "first try", "table")
    assert made.folder == Path("/data/logs")


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 101, "a\\b", "a\nb", "a:b", "a?b", "a%b"])
@pytest.mark.parametrize("key", ["tracker_project_name", "tracker_run_name"])
def test_a_name_that_a_tracker_would_refuse_is_refused_here(key: str, name: str) -> None:
    named: dict[str, Any] = {key: name}
    with pytest.raises(ValueError, match="must be a name of letters"):
        Config(output_dir="o", data_backend_config="d", max_train_steps=1, **named)


def test_a_project_that_is_named_names_the_repository_too() -> None:
    """As SimpleTuner does. A default project is nobody's name for a repository."""
    made: dict[str, Any] = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 1,
                            "output_name": "cats", "push_to_hub": True}  # fmt: skip
    assert repository_name(Config(**made)) == "cats"
    assert repository_name(Config(**made, tracker_project_name="dogs")) == "dogs"
    assert repository_name(Config(**made, tracker_project_name="d", hub_model_id="a/b")) == "a/b"


def test_what_trackers_and_events_get_of_the_settings_has_no_address_of_a_webhook() -> None:
    raw = {"webhook_type": "raw", "callback_url": "http://h.example/in?token=planted-a",
           "auth_token": "planted-b"}  # fmt: skip
    discord = {"webhook_type": "discord",
               "webhook_url": "https://discord.com/api/webhooks/12/planted-c"}  # fmt: skip
    described = describe(plan("l4", webhook_config=(raw, discord), push_to_hub=True,
                              hub_model_id="a/b"))  # fmt: skip
    settings = SecretValues.of({}).settings(described["config"])
    assert settings["webhook_config"] == "…" and settings["push_to_hub"] is True
    assert "planted" not in json.dumps([settings, SecretValues.of({}).data(described)])


KEY = "0123456789" * 4


def test_weights_and_biases_is_offline_without_a_key_and_says_so(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    mode = wandb_mode(home, Path("o/logs"))
    assert mode.value == "offline" and "no key for api.wandb.ai" in mode.reason
    assert "set WANDB_API_KEY or run `wandb login`" in mode.reason
    assert "kept here, and `wandb sync o/logs/wandb/offline-run-*` sends it" in mode.reason
    assert wandb_mode(home | {"WANDB_API_KEY": KEY}, Path("o")).value == "online"
    for name in ("offline", "OFFLINE", "dryrun"):
        off = wandb_mode(home | {"WANDB_API_KEY": KEY, "WANDB_MODE": name}, Path("o"))
        assert off.value == "offline" and "WANDB_MODE" in off.reason
    # As `wandb login` leaves it.
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert wandb_mode(home, Path("o")).value == "online"
    other = wandb_mode(home | {"WANDB_BASE_URL": "https://wandb.example:8080"}, Path("o"))
    assert other.value == "offline" and "no key for wandb.example" in other.reason
    (tmp_path / ".netrc").write_text("machine {")
    assert wandb_mode(home, Path("o")).value == "offline"
    (tmp_path / "mine").write_text(f"machine api.wandb.ai login user password {KEY}")
    assert wandb_mode(home | {"NETRC": str(tmp_path / "mine")}, Path("o")).value == "online"
    assert KEY not in wandb_mode(home | {"WANDB_API_KEY": KEY}, Path("o")).reason
