"""The plan's figures for the disk are those of the run."""

from pathlib import Path

import pytest

from sd3tune.run_overview import overview_of
from sd3tune.train.run import train
from tests.cpu.conftest import Project


def size_bytes(*paths: Path) -> int:
    files = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*"))]
    return sum(f.stat().st_size for f in files if f.suffix == ".safetensors")


@pytest.mark.slow
def test_a_run_writes_what_its_plan_says(project: Project) -> None:
    for number in range(6):
        project.picture(f"{number}.png", number)
    project.dataset["resolution"] = 256
    project.config |= {"checkpoint_step_interval": 1, "lora_rank": 64}
    ready = project.prepare()
    need, output = overview_of(ready).disk, project.root / "output"
    train(ready, ())
    cache = project.root / "cache"
    assert need.latents == pytest.approx(size_bytes(cache / "vae"), rel=0.1)
    captions = size_bytes(cache / "text")  # how small coding makes them depends on their values
    assert captions <= need.captions < 1.25 * captions
    assert need.checkpoints == pytest.approx(size_bytes(*output.glob("checkpoint-*")), rel=0.02)
    assert need.result == pytest.approx(size_bytes(*output.glob("*.safetensors")), rel=0.02)
    assert need.kept == len(list(output.glob("checkpoint-*")))
