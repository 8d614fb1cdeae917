"""docs/guides/dreambooth.md, followed as it is written: its files, its commands, on the demo."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sd3tune.prepare import Prepared
from sd3tune.run_overview import overview_of
from tests.this_machine import prepared_here

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "dreambooth.md").read_text()
COMMANDS = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.M | re.S)
FILES = dict(re.findall(r"^`(try/config/\S+)`:\n\n```json\n(.*?)^```", GUIDE, re.M | re.S))


def bash(script: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=300)


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).write_text(content)


@pytest.fixture
def planned(demo: Path, tmp_path: Path) -> Prepared:
    """The guide up to its plan, with the demo that the tests have already."""
    shutil.copytree(demo, tmp_path / "try")
    _, copying = COMMANDS[0].split("\n", 1)
    bash(copying + COMMANDS[1], tmp_path)
    write_files(tmp_path)
    return prepared_here(tmp_path / "try/config/dreambooth.json")


def test_the_guide_s_data_is_the_subject_with_masks_and_regularisation(planned: Prepared) -> None:
    subject, other = overview_of(planned).datasets
    assert (subject.images, subject.drawn, subject.captions) == (2, 42, 1)
    assert (other.kind, other.images, other.drawn) == ("regularisation", 3, 21)
    samples = {s.dataset: s for s in planned.samples}
    assert samples["subject"].mask == "00.png" or samples["subject"].mask == "01.png"
    assert samples["subject"].captions == ("a photo of sks cat",)
    assert samples["class"].captions == ("a photo of a cat",)
    assert not [w for w in planned.plan.warnings if "instance_prompt" in w]


@pytest.mark.slow
def test_the_guide_runs_as_it_is_written(tmp_path: Path) -> None:
    for script in COMMANDS[:2]:
        bash(script, tmp_path)
    write_files(tmp_path)
    bash(COMMANDS[2], tmp_path)
    output = tmp_path / "try" / "dreambooth"
    assert (output / "pytorch_lora_weights.safetensors").exists()
    assert (output / "contact_sheet.png").exists()
    steps = {p.name.split("_")[1] for p in (output / "validation_images").glob("step_*")}
    assert steps == {"50", "100", "150", "200"}
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 200
