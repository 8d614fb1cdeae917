"""The demo, written once, and runs of it through the real code path."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sd3tune.config.files.prompts import load_prompts
from sd3tune.data.cache import TensorCache
from sd3tune.demo import write
from sd3tune.encode import upkeep
from sd3tune.prepare import Prepared
from sd3tune.train.outcome import Outcome
from sd3tune.train.run import train
from tests.this_machine import prepared_here

torch.set_num_threads(1)
Train = Callable[..., Outcome]
Prepare = Callable[..., Prepared]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    write(folder, model="sd3.5-medium")
    return folder


@pytest.fixture
def prepared(demo: Path, tmp_path: Path) -> Callable[..., Prepared]:
    """A plan of the demo with other settings; its output goes to this test's folder."""

    def make(*words: str) -> Prepared:
        words = (f"output_dir={tmp_path / 'output'}", "validation_disable=true", *words)
        return prepared_here(demo / "config" / "config.json", *words)

    return make


@pytest.fixture
def run(prepared: Callable[..., Prepared]) -> Train:
    def go(*words: str) -> Outcome:
        made = prepared(*words)
        return train(made, load_prompts(made.plan.config))

    return go


class Project:
    """A configuration with one dataset of captioned pictures, each of its own colours."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.images = root, root / "images"
        self.dataset: dict[str, Any] = {
            "id": "d",
            "instance_data_dir": "images",
            "resolution": 64,
            "caption_strategy": "textfile",
            "cache_dir_vae": "cache/vae",
            "write_batch_size": 4,
        }
        self.others: list[dict[str, Any]] = [
            {"id": "text", "dataset_type": "text_embeds", "cache_dir": "cache/text",
             "default": True, "write_batch_size": 4},
        ]  # fmt: skip
        self.config: dict[str, Any] = {
            "pretrained_model_name_or_path": str(model),
            "output_dir": "output",
            "max_train_steps": 2,
            "train_batch_size": 2,
            "validation_disable": True,
            "tokenizer_max_length": 77,
            "caption_dropout_probability": 0.1,
            "lora_rank": 2,
        }

    def picture(self, name: str, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
        """Smooth noise that no other seed gives, with a caption beside it."""
        dice = np.random.default_rng(seed)
        small = dice.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
        path.with_suffix(".txt").write_text(f"picture number {seed} of {name}")
        return path

    def write(self) -> Path:
        folder = self.root / "config"
        folder.mkdir(parents=True, exist_ok=True)
        entries = [self.dataset, *self.others]
        (folder / "multidatabackend.json").write_text(json.dumps(entries))
        (folder / "config.json").write_text(json.dumps(self.config))
        return folder / "config.json"

    def prepare(self, *words: str) -> Prepared:
        return prepared_here(self.write(), *words)

    def build(self, *words: str) -> dict[str, int]:
        """Fills the caches; how many entries were made in each."""
        before = {name: self.entries(name) for name in ("text", "vae")}
        upkeep.build(self.prepare(*words))
        after = {name: self.entries(name) for name in ("text", "vae")}
        return {name: len(after[name] - before[name]) for name in after}

    def entries(self, name: str) -> set[str]:
        return set(TensorCache(self.root / "cache" / name).places)


@pytest.fixture
def project(demo: Path, tmp_path: Path) -> Project:
    return Project(tmp_path / "project", demo / "models" / "sd3.5-medium")


@pytest.fixture
def own(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo with one of its models, to be spoilt."""
    folder = tmp_path / "demo"
    for part in ("config", "photos", "models/sd3.5-medium"):
        shutil.copytree(demo / part, folder / part)
    monkeypatch.chdir(folder)
    return folder


def pytest_configure() -> None:
    os.environ["SD3TUNE_BACKEND"] = "cpu"
