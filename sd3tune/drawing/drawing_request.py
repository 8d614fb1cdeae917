"""A drawing command as a whole: prompts, sources, model and settings, checked before anything is
loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sd3tune.config.files.prompts import Prompt
from sd3tune.drawing.drawing_options import DrawingOptions, asked_of, seed_of
from sd3tune.drawing.drawing_sources import Sources, find_sources, is_adapter_word
from sd3tune.drawing.prepared_drawing import plan_drawing, plan_drawing_on
from sd3tune.drawing.prompt_list import prompts_of
from sd3tune.errors import answers
from sd3tune.plan.drawing import DrawingAsked, DrawingPlan
from sd3tune.sd3 import models
from sd3tune.sd3.variants import Model

FOLDER = Path("samples")  # in the output folder of a run, or where the command is given


@dataclass(frozen=True)
class DrawingRequest:
    """What to draw, and with what. seed: of the first picture of each prompt."""

    prompts: Sequence[Prompt]
    sources: Sources
    model: Model
    asked: DrawingAsked
    seed: int

    @property
    def folder(self) -> Path:
        """Where pictures go unless the user says it."""
        run = self.sources.run
        return FOLDER if run is None else run.folder / FOLDER

    def with_adapters(
        self, *, merged: bool, values: int, modulating: bool = False
    ) -> "DrawingRequest":
        """The same, with what is known of the adapters when they are read."""
        asked = replace(
            self.asked, merged=merged, adapter_values=values, adapted_modulations=modulating
        )
        return replace(self, asked=asked)

    def plan(self, *, on_cpu: bool = False, chip: str | None = None) -> DrawingPlan:
        """The plan for this machine, or another one. Raises HardwareError and PlanError."""
        if chip is not None:
            return plan_drawing_on(self.asked, chip)
        return plan_drawing(self.asked, on_cpu=on_cpu)


def read(
    source: str,
    words: Sequence[str],
    files: Sequence[Path],
    options: DrawingOptions,
    *,
    adapters: Sequence[str] = (),
    model: str | None = None,
    strength: float = 1.0,
) -> DrawingRequest:
    """words: prompts, and further adapters, whose names end with .safetensors. files: of prompts.
    Raises Sd3tuneError with everything that is wrong."""
    more = [w for w in words if is_adapter_word(w)]
    prompts = [w for w in words if not is_adapter_word(w)]
    found: list[Any] = answers(
        partial(find_sources, source, (*more, *adapters), model=model, strength=strength),
        partial(prompts_of, prompts, files),
    )
    sources, listed = found
    described = models.find_whole(sources.model)
    checked: list[Any] = answers(
        partial(asked_of, options, sources, described), partial(seed_of, options, sources)
    )
    asked, seed = checked
    return DrawingRequest(listed, sources, described, asked, seed)
