"""What is wrong with images, models and other datasets is reported in one run."""

from pathlib import Path

import pytest

from tests.commands import exit_code
from tests.projects import IMAGES, TEXT, Project


def test_every_dataset_without_a_usable_image_is_named_with_a_missing_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"no picture")
    entries = [IMAGES | {"id": name, "instance_data_dir": name} for name in ("one", "two")]
    project.datasets(IMAGES, *entries, TEXT)
    for model, count in (("./gone", 3), ("stabilityai/stable-diffusion-3.5-medium", 2)):
        project.config(pretrained_model_name_or_path=model)
        assert exit_code(["plan", "config/config.json", "--on", "rtx4090"], monkeypatch) == 1
        errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
        assert len(errors) == count
        assert all(any(f"dataset `{name}`" in e for e in errors) for name in ("one", "two"))
