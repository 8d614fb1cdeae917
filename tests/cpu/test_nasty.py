"""More than sixty files of every bad sort: each is used or set aside with its reason, and the run
goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import sd3tune
from tests.nasty import write

CONFIG = "config/config.json"


@pytest.fixture
def project(demo: Path, tmp_path: Path) -> tuple[Path, dict[str, str | None]]:
    """A configuration whose one dataset is the nasty folder."""
    expected = write(tmp_path / "images")
    (tmp_path / "config").mkdir()
    config = json.loads((demo / "config" / "config.json").read_text())
    config |= {"pretrained_model_name_or_path": str(demo / "models" / "sd3.5-medium"),
               "max_train_steps": 3, "lr_warmup_steps": 0, "validation_disable": True}  # fmt: skip
    config.pop("user_prompt_library")
    (tmp_path / "config" / "config.json").write_text(json.dumps(config))
    datasets = [{"id": "nasty", "instance_data_dir": "images", "resolution": 64, "crop": True}]
    (tmp_path / "config" / "multidatabackend.json").write_text(json.dumps(datasets))
    return tmp_path, expected


def fates(rows: list[dict[str, Any]], root: Path, key: str) -> dict[str, str | None]:
    return {Path(row["path"]).relative_to(root).as_posix(): row.get(key) for row in rows}


def check(got: dict[str, str | None], expected: dict[str, str | None]) -> None:
    for name, reason in expected.items():
        assert name in got, name
        if reason is None:
            assert got[name] is None, (name, got[name])
        else:
            assert reason in (got[name] or ""), (name, got[name])


@pytest.mark.slow
def test_every_nasty_file_has_its_fate_and_the_run_goes_on(
    project: tuple[Path, dict[str, str | None]],
) -> None:
    root, expected = project
    assert len(expected) >= 60
    looked = sd3tune("dataset", CONFIG, "--json", "--decode", cwd=root)
    assert looked.returncode == 0, looked.stderr[-2000:]
    answer = json.loads(looked.stdout)
    got = fates(answer["images"], root / "images", "rejected")
    check(got, expected)
    assert set(got) == set(expected)

    ran = sd3tune("train", CONFIG, cwd=root)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
    report = json.loads((root / "output" / "set_aside.json").read_text())
    bad: dict[str, str | None] = {
        name: reason for name, reason in expected.items() if reason is not None
    }
    check(fates(report, root / "images", "reason"), bad)
    assert len(report) == len(bad)
    assert "files could not be decoded and are left out" in ran.stderr

    again = sd3tune("train", CONFIG, "max_train_steps=5", cwd=root)  # nothing is encoded twice
    assert again.returncode == 0 and "encode images" not in again.stderr, again.stderr[-2000:]

    strict = sd3tune("train", CONFIG, "strict=true", cwd=root)
    assert strict.returncode == 1 and len(strict.stderr.strip().splitlines()[-2:]) == 2
    assert "strict=true" in strict.stderr.splitlines()[-2]


def test_the_table_for_humans_and_the_contact_sheet_stand_it_too(
    project: tuple[Path, dict[str, str | None]],
) -> None:
    root, _ = project
    shown = sd3tune("dataset", CONFIG, "--images", "80", cwd=root)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "set aside" in shown.stdout and "too many pixels" in shown.stdout
    assert (root / "output" / "contact_sheet.png").stat().st_size > 10_000
