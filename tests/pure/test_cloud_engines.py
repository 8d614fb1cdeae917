"""Specifications, read by the engines' own parsers. They are in an environment of their own, whose
Python SD3TUNE_ENGINES_PYTHON names: tests/engine_parsers.py says how it is made."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_jobs import CARDS, Jobs, text_of

PARSERS = Path(__file__).parents[1] / "engine_parsers.py"
PYTHON = os.environ.get("SD3TUNE_ENGINES_PYTHON", "")
AGAIN = [75, 129, 137, 143]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON,
        reason="SD3TUNE_ENGINES_PYTHON names no Python with the engines: tests/engine_parsers.py",
    ),
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("cloud") / "my-project")


def understood(engine: str, text: str, folder: Path) -> Any:
    """What the engine's parser made of the text."""
    file = folder / "specification.yaml"
    file.write_text(text)
    words = [PYTHON, str(PARSERS), engine, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("card", CARDS)
def test_sky_reads_the_task(card: str, job: Jobs, tmp_path: Path) -> None:
    read = understood("sky", text_of("sky", job(card)), tmp_path)
    assert read["recovery"]["recover_on_exit_codes"] == AGAIN
    assert read["disk"] == job(card).disk_gib and "sd3tune-entrypoint train" in read["run"]


@pytest.mark.parametrize("card", CARDS)
def test_dstack_reads_the_task(card: str, job: Jobs, tmp_path: Path) -> None:
    read = understood("dstack", text_of("dstack", job(card)), tmp_path)
    assert read == {
        "kind": "TaskConfiguration", "known": True, "count": 1,
        "events": ["no-capacity", "interruption"], "stop_seconds": 660,
    }  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_kubeflow_reads_the_trainjob(card: str, job: Jobs, tmp_path: Path) -> None:
    read = understood("kubeflow", text_of("kubeflow", job(card)), tmp_path)
    assert read["kind"] == "TrainJob"
    assert read["spec"]["trainer"]["args"][:2] == ["train", "/workspace/config/config.json"]


@pytest.mark.parametrize("card", CARDS)
def test_ray_reads_the_environment_and_the_command(card: str, job: Jobs, tmp_path: Path) -> None:
    read = understood("ray", text_of("ray", job(card)), tmp_path)
    assert read["cards"] == 1 and read["known"]
    assert read["entrypoint"][:2] == ["sd3tune-entrypoint", "train"]
