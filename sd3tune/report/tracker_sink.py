"""Events of a run as a tracker takes them: the same names and the same rules for every tracker.

A resumed run repeats steps that the tracker may have, and lacks steps that a killed process never
sent. The tracker says which step it has last: steps up to there are left out, and those after it
that the run has behind it are read back from metrics.jsonl.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sd3tune.report import metrics
from sd3tune.report.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    MessageSaid,
    PictureDrawn,
    RunEnded,
    RunStarted,
    Scored,
    SheetDrawn,
    StepTaken,
)

TAKES: tuple[type[Event], ...] = (
    RunStarted, StepTaken, Evaluated, Scored, PictureDrawn, SheetDrawn, CheckpointSaved,
    MessageSaid, RunEnded,
)  # fmt: skip
NUMBERS = {  # of metrics.jsonl -> as SimpleTuner's trackers call them
    "loss": "train_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "weight_norm": "weight_norm",
    "seconds": "step_seconds",
}
ID_SHOWN = 8  # characters of a run's id in names of folders and runs


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a run when it opens it. id: of this run and no other, the same after
    it is resumed. step: that it continues from; 0: it begins."""

    project: str
    name: str
    id: str
    step: int
    folder: Path  # where the tracker may write
    layout: Literal["gallery", "table"]  # of the pictures of a validation
    online: bool  # whether it may send to a server; its files are here otherwise
    settings: Mapping[str, Any]

    @property
    def unique_name(self) -> str:
        """Where a name has to be of one run alone."""
        return f"{self.name}-{self.id[-ID_SHOWN:]}"


class Backend(Protocol):
    """An open run of one tracker. Everything is called from one thread, and may raise anything."""

    last: int  # the newest step that the tracker has; -1: none

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...
    def pictures(self, step: int, drawn: Sequence[PictureDrawn]) -> None: ...
    def sheet(self, step: int, name: str, path: Path) -> None: ...
    def text(self, step: int, name: str, markdown: str) -> None: ...
    def flush(self) -> None: ...
    def finish(self, *, failed: bool) -> None: ...


class TrackerSink:
    """Hands the events of a run to a tracker, which `open_run` opens at its first event. epoch_of:
    the epoch, from 1, of a step."""

    def __init__(
        self,
        name: str,
        open_run: Callable[[RunStarted], Backend],
        epoch_of: Callable[[int], int],
        log: Path,
    ) -> None:
        self.name, self._open, self._epoch_of = name, open_run, epoch_of
        self._log = log  # metrics.jsonl
        self._backend: Backend | None = None
        self._drawn: list[PictureDrawn] = []  # of one step; a tracker takes them together
        self._failed = False

    def receive(self, event: Event) -> None:
        """Raises what the tracker's library raises."""
        if isinstance(event, RunStarted):
            self._backend = self._open(event)
            self._fill_in(self._backend, event.step)
        if (backend := self._backend) is None:
            return
        if self._drawn and (
            not isinstance(event, PictureDrawn) or event.step != self._drawn[0].step
        ):
            self._hand_pictures(backend)
        if isinstance(event, RunEnded):
            self._failed = event.outcome == "failed"
        elif isinstance(event, CheckpointSaved):
            backend.flush()
        elif event.step > backend.last:
            self._hand(backend, event)

    def close(self) -> None:
        """Finishes the tracker's run."""
        if self._backend is not None:
            self._hand_pictures(self._backend)
            self._backend.finish(failed=self._failed)

    def _hand(self, backend: Backend, event: Event) -> None:
        match event:
            case StepTaken():
                self._step(backend, event.step, event.numbers)
            case Evaluated():
                name = f"loss/val/{event.dataset}"
                levels = {f"{name}/{level:g}": loss for level, loss in event.by_level.items()}
                backend.numbers(event.step, finite({name: event.loss, **levels}))
            case Scored():
                backend.numbers(event.step, finite(event.scores))
            case PictureDrawn():
                self._drawn.append(event)
            case SheetDrawn():
                backend.sheet(event.step, event.kind, event.path)
            case MessageSaid():
                backend.text(event.step, f"messages/{event.level}", event.text)

    def _step(self, backend: Backend, step: int, numbers: Mapping[str, Any]) -> None:
        named = {NUMBERS[key]: value for key, value in numbers.items() if key in NUMBERS}
        backend.numbers(step, {**finite(named), "epoch": float(self._epoch_of(step))})

    def _hand_pictures(self, backend: Backend) -> None:
        drawn, self._drawn = self._drawn, []
        if drawn and drawn[0].step > backend.last:
            backend.pictures(drawn[0].step, drawn)

    def _fill_in(self, backend: Backend, step: int) -> None:
        """The steps up to `step` that the tracker lacks."""
        if step > backend.last:
            for row in rows(self._log):
                if backend.last < row["step"] <= step:
                    self._step(backend, row["step"], row)


def rows(log: Path) -> Iterator[metrics.Row]:
    """The rows of a metrics.jsonl."""
    return (line.row for line in metrics.lines(log) if line.row is not None)


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def caption(picture: PictureDrawn) -> str:
    """One line below a picture."""
    width, height = picture.size
    weights = f", {picture.weights}" if picture.weights else ""
    return f"{picture.prompt} ({width}x{height}, seed {picture.seed}{weights})"


def by_prompt(drawn: Sequence[PictureDrawn]) -> dict[str, list[PictureDrawn]]:
    """The pictures of one step under `validation/<prompt's short name>/<size>`: trackers show
    pictures of one size side by side."""
    groups: dict[str, list[PictureDrawn]] = {}
    for picture in drawn:
        width, height = picture.size
        name = f"validation/{picture.shortname}/{width}x{height}"
        groups.setdefault(name, []).append(picture)
    return groups
