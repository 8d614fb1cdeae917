"""`sd3tune config`: what settings end up as, every problem at once."""

import json
from pathlib import Path

import pytest

from tests.commands import exit_code
from tests.projects import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_show_names_the_source_of_each_setting(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.config(save_total_limit=3, seed=1)
    words = ["config", "show", "--json", "config/config.json", "seed=2"]
    assert exit_code(words, monkeypatch) == 0
    shown = {s["name"]: s for s in json.loads(capsys.readouterr().out)["settings"]}
    assert shown["seed"]["value"] == 2
    assert shown["seed"]["source"]["file"] == "the command line"
    assert shown["checkpoints_total_limit"]["source"]["key"] == "save_total_limit"
    assert "lora_dropout" not in shown


def test_show_of_a_key_has_the_default_too_and_takes_the_old_name(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["config", "show", "validation_steps", "lora_rank"], monkeypatch) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in shown] == ["validation_step_interval", "lora_rank"]
    assert shown[1] == ["lora_rank", "16", "default"]


def test_check_reports_the_problems_of_all_files_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.config(lora_rank=-1, foo=1)
    project.image(crop_style="left")
    assert exit_code(["config", "check", "seed=-5"], monkeypatch) == 1
    errors = capsys.readouterr().err
    assert all(f"`{w}" in errors for w in ("lora_rank=-1", "foo", "crop_style=left", "seed=-5"))


def test_check_and_plan_report_files_that_are_missing_together_with_wrong_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("full").write_text("a file")
    missing = {"init_lora": "gone.safetensors", "resume_from_checkpoint": "checkpoint-9"}
    project.config(lora_rank=-1, output_dir="full", user_prompt_library="gone.json", **missing)
    project.image(caption_strategy="guess", instance_data_dir="nowhere")
    wanted = ("lora_rank=-1", "gone.safetensors", "full", "checkpoint-9", "gone.json",
              "caption_strategy=guess", "nowhere")  # fmt: skip
    for command in (["config", "check"], ["plan", "config/config.json"]):
        assert exit_code(command, monkeypatch) == 1
        shown = capsys.readouterr().err
        errors = [line for line in shown.splitlines() if line.startswith("error: ")]
        assert all(any(word in e for e in errors) for word in wanted), (command, shown)
        assert len(set(errors)) == len(errors) == len(wanted)


def test_check_of_right_settings_still_looks_for_what_they_name(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.config(init_lora="gone.safetensors", resume_from_checkpoint="checkpoint-9")
    assert exit_code(["config", "check"], monkeypatch) == 1
    shown = capsys.readouterr().err
    assert "gone.safetensors" in shown and "checkpoint-9" in shown


def test_check_of_files_without_a_problem_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["config", "check"], monkeypatch) == 0
    assert "ok" in capsys.readouterr().out
