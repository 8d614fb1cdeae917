"""Runs of the example of SD3.5 large, planned for cards and written for engines."""

import shutil
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from sd3tune.backends.decide.chips import chip
from sd3tune.cloud.cloud_job import CloudJob, job_of
from sd3tune.cloud.engine_row import Choices
from sd3tune.cloud.engines import ENGINES
from sd3tune.cloud.specification import specification
from sd3tune.prepare import prepare_run
from sd3tune.run_overview import overview_of

ROOT = Path(__file__).parents[1]
CARDS = ("a100", "mi300x")
IMAGES = 48  # enough for a step of four processes


class Jobs:
    """Plans each job once. folder: becomes the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planned = lru_cache(self._planned)

    @cached_property
    def config(self) -> Path:
        """The configuration of the project, which is made now."""
        shutil.copytree(ROOT / "examples" / "sd3.5-large", self.folder)
        images = self.folder / "images"
        images.mkdir()
        Image.new("RGB", (64, 64)).save(images / "0.png")
        picture = (images / "0.png").read_bytes()
        for i in range(IMAGES):
            (images / f"{i}.png").write_bytes(picture)
            (images / f"{i}.txt").write_text("a red bicycle")
        return self.folder / "config" / "config.json"

    def __call__(self, card: str, *words: str) -> CloudJob:
        return self.planned(card, words)

    def _planned(self, card: str, words: tuple[str, ...]) -> CloudJob:
        ready = prepare_run(self.config, words, card)
        return job_of(ready, overview_of(ready), chip(card), self.config, words)


def text_of(engine: str, job: CloudJob, file: str | None = None, **choices: Any) -> str:
    """What `sd3tune cloud write` writes to `file`."""
    return specification(ENGINES[engine], job, Choices(**choices), file or f"{engine}.yaml")
