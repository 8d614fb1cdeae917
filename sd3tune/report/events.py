"""What happens in a run, as typed events: one stream of them goes to every sink.

A sink is a terminal, a file, a tracker, a webhook or the live page. Adding a kind of event is one
class here; a sink ignores the kinds that it does not know. Numbers are plain Python numbers, images
are encoded files: an event holds no tensor and can wait in a queue. `as_json` is the form that
leaves the process; docs/reference/events.md documents it, tests/schemas/event.json checks it.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

VERSION = 1  # of the JSON form; a field that goes or changes its meaning raises it


@dataclass(frozen=True)
class RunStarted:
    """The loop is about to begin. step: 0, or the step that the run continues from."""

    step: int
    steps: int
    name: str  # of the run, as trackers show it
    output_dir: Path
    settings: Mapping[str, Any]  # what the configuration asked, without secrets
    plan: Mapping[str, Any]  # as plan.json of a checkpoint, without `config`
    run: str = ""  # id of the run, the same after it is resumed


@dataclass(frozen=True)
class StepTaken:
    """One optimizer step."""

    step: int
    numbers: Mapping[str, Any]  # loss, learning_rate, grad_norm, weight_norm, tokens, seconds, …
    images: tuple[tuple[float, float], ...] = ()  # noise level and loss of each image


@dataclass(frozen=True)
class Evaluated:
    """The evaluation loss of one dataset, with fixed noise."""

    step: int
    dataset: str
    loss: float
    by_level: Mapping[float, float] = field(default_factory=dict)  # noise level -> mean loss
    trained_on: bool = False  # these images are trained on too: there is no `eval` dataset


@dataclass(frozen=True)
class Scored:
    """Scores of the pictures of one validation, such as `clip/mean`."""

    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class PreviewDrawn:
    """A picture on the way, decoded by the tiny autoencoder."""

    step: int  # of training
    shortname: str
    prompt: str
    size: tuple[int, int]  # width, height in pixels, of the picture to be
    sampling_step: int  # from 1
    sampling_steps: int
    timestep: float
    png: bytes
    index: int = 0  # of the pictures of one prompt and size
    path: Path | None = None  # where the newest preview of this prompt is on disk


@dataclass(frozen=True)
class PictureDrawn:
    """A validation picture that is on disk."""

    step: int
    path: Path
    shortname: str
    prompt: str
    size: tuple[int, int]  # width, height in pixels
    seed: int
    index: int  # of the pictures of one prompt and size
    weights: str  # folder of these weights below the folder of pictures; "" for the last ones
    kind: Literal["base", "during", "end"] = "during"  # base: of the model before any training


@dataclass(frozen=True)
class SheetDrawn:
    """Several pictures on one sheet: the prompts over the steps, or before and after."""

    step: int
    path: Path
    kind: Literal["grid", "before_after"]


@dataclass(frozen=True)
class CheckpointSaved:
    """A complete checkpoint."""

    step: int
    path: Path
    kind: Literal["regular", "rolling", "best"] = "regular"


@dataclass(frozen=True)
class MessageSaid:
    """A sentence of the run, as the terminal shows it."""

    step: int
    level: Literal["info", "warning", "error"]
    text: str


@dataclass(frozen=True)
class RunEnded:
    """The last event. reason: why, as a sentence where it is an error."""

    step: int
    outcome: Literal["finished", "stopped", "failed"]
    reason: str = ""
    results: tuple[Path, ...] = ()


Event = (
    RunStarted
    | StepTaken
    | Evaluated
    | Scored
    | PreviewDrawn
    | PictureDrawn
    | SheetDrawn
    | CheckpointSaved
    | MessageSaid
    | RunEnded
)
NAMES: Mapping[type[Any], str] = {
    RunStarted: "run.started",
    StepTaken: "step",
    Evaluated: "evaluation",
    Scored: "scores",
    PreviewDrawn: "preview",
    PictureDrawn: "picture",
    SheetDrawn: "sheet",
    CheckpointSaved: "checkpoint",
    MessageSaid: "message",
    RunEnded: "run.ended",
}


def as_json(event: Event) -> dict[str, Any]:
    """The event as JSON takes it: `event` is its name, `version` that of this form. Paths are text,
    bytes are left out, a number that is not finite is None."""
    fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    plain = {key: _plain(value) for key, value in fields.items() if not isinstance(value, bytes)}
    return {"event": NAMES[type(event)], "version": VERSION, **plain}


def _plain(value: Any) -> Any:
    match value:
        case Path():
            return str(value)
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
    return value
