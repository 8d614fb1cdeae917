"""The demo, written once, and runs of it through the real code path."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sd3tune.config.prompts import load_prompts
from sd3tune.demo import write
from sd3tune.plan.prepare import Prepared, prepare
from sd3tune.train.run import Outcome, train

torch.set_num_threads(1)
Train = Callable[..., Outcome]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    write(folder)
    return folder


@pytest.fixture
def prepared(demo: Path, tmp_path: Path) -> Callable[..., Prepared]:
    """A plan of the demo with other settings; its output goes to this test's folder."""

    def make(*words: str) -> Prepared:
        words = (f"output_dir={tmp_path / 'output'}", "validation_disable=true", *words)
        return prepare(demo / "config" / "config.json", words, None)

    return make


@pytest.fixture
def run(prepared: Callable[..., Prepared]) -> Train:
    def go(*words: str) -> Outcome:
        made = prepared(*words)
        return train(made, load_prompts(made.plan.config))

    return go


def pytest_configure() -> None:
    os.environ["SD3TUNE_BACKEND"] = "cpu"
