"""Pictures of a run: when they are drawn, of which weights, and that they change nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from sd3tune import backends
from sd3tune.config.files.prompts import Prompt, load_prompts
from sd3tune.encode.caches import Caches
from sd3tune.encode.everything import filled
from sd3tune.prepare import Prepared
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.report.events import Event, PictureDrawn
from sd3tune.report.stream import Stream
from sd3tune.train.begin import begin
from sd3tune.train.validation import Validated, Validations
from tests.image_folders import shown
from tests.this_machine import prepared_here

WORDS = ("lr_warmup_steps=0", "max_train_steps=6", "train_batch_size=2",
         "validation_resolution=64x64", "validation_num_inference_steps=2",
         "user_prompt_library=none", "validation_prompt=a red cup")  # fmt: skip
BASE, CUP = "benchmarks/base_model", "validation_0_64x64.png"


@dataclass
class Collected:
    """A sink that keeps what it gets."""

    name: str = "collected"
    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    def pictures(self) -> list[tuple[str, int, str]]:
        return [(e.kind, e.step, e.shortname) for e in self.events if isinstance(e, PictureDrawn)]


@dataclass
class Seen:
    """The validations of a run that is about to begin, and what they told."""

    validations: Validations
    sink: Collected
    validated: list[Validated]

    @property
    def output(self) -> Path:
        return self.validations.plan.output_dir

    def pixels(self, name: str) -> np.ndarray:
        return np.asarray(shown(self.output / name)).astype(int)

    def train(self, step: int, seed: int = 0) -> None:
        """Stands in for training: the trained values are moved, and the step is counted."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.validations.state.trainable:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        self.validations.state.step = step


Make = Callable[..., Seen]


@pytest.fixture(scope="module")
def encoded(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Caches]:
    """The caches of the demo with other settings."""

    def make(output: Path, *words: str) -> Caches:
        words = (f"output_dir={output}", *WORDS, *words)
        prepared: Prepared = prepared_here(demo / "config" / "config.json", *words)
        prompts = load_prompts(prepared.config)
        vendor = backends.module(prepared.plan.facts.vendor)
        return filled(prepared, prompts, torch.device("cpu"), vendor, ALONE_ON_CPU)

    return make


@pytest.fixture
def seen(encoded: Callable[..., Caches], tmp_path: Path) -> Make:
    def make(*words: str, prompts: tuple[Prompt, ...] | None = None) -> Seen:
        caches = encoded(tmp_path / "output", *words)
        state = begin(caches.prepared.plan, ALONE_ON_CPU)
        sink = Collected()
        validated: list[Validated] = []
        own = load_prompts(caches.prepared.config) if prompts is None else prompts
        made = Validations(
            state, caches, own, ALONE_ON_CPU, Stream([sink]), observers=[validated.append]
        )
        return Seen(made, sink, validated)

    return make


def never() -> bool:
    return False


def test_the_base_model_is_drawn_once_and_without_the_adapter(seen: Make) -> None:
    run = seen("validation_disable_unconditional=true")
    run.validations.begin(never)
    assert run.sink.pictures() == [("base", 0, "validation")]
    base = run.pixels(f"{BASE}/{CUP}")
    run.train(3)
    run.validations.begin(never)
    assert len(run.sink.pictures()) == 1, "it is there already"
    (run.output / BASE / CUP).unlink()
    run.validations.begin(never)
    assert np.array_equal(run.pixels(f"{BASE}/{CUP}"), base), "the adapter is switched off"
    run.validations.draw()
    assert not np.array_equal(run.pixels(f"validation_images/step_3_{CUP}"), base)
    assert [v.kind for v in run.validated] == ["base", "base", "during"]
    ((picture, image),) = run.validated[-1].drawn
    assert picture.prompt == "a red cup" and image.size == (64, 64)
