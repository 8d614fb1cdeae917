"""Validations: pictures of the base model once, on the way, and of the result.

They change nothing of the run, also when they fail (train/harmless.py).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sd3tune.config.files.prompts import Prompt
from sd3tune.data.order import Schedule
from sd3tune.data.run_folders import BASE_PICTURES, PICTURES, of_step
from sd3tune.encode.caches import Caches
from sd3tune.filesystem import disk
from sd3tune.formats.picture_files import keep
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.quant.product_errors import weights_only_layers
from sd3tune.report.events import PictureDrawn
from sd3tune.report.stream import Stream
from sd3tune.sample.pictures import (
    BASE,
    LAST,
    PictureJob,
    Values,
    draw_pictures,
    name_of,
    pictures,
    texts,
)
from sd3tune.sample.pipeline import Picture
from sd3tune.sample.previews import Previews
from sd3tune.sample.sheets import steps_in
from sd3tune.train import run_sheets
from sd3tune.train.harmless import Harmless
from sd3tune.train.keeper import epoch_ends
from sd3tune.train.loop import Chore, every
from sd3tune.train.results import pictured
from sd3tune.train.state import TrainState

Kind = Literal["base", "during", "end"]


@dataclass(frozen=True)
class Validated:
    """The pictures of one validation, drawn with one version of the weights."""

    step: int
    kind: Kind
    weights: str  # as in PictureDrawn
    drawn: Sequence[tuple[Picture, Any]]  # what was asked, and the PIL image


Observer = Callable[[Validated], None]  # in process 0; what it raises is reported


@dataclass
class Validations:
    """The validations of a run."""

    state: TrainState
    caches: Caches
    prompts: Sequence[Prompt]
    world: World
    stream: Stream
    observers: Sequence[Observer] = ()
    stopped: Callable[[], bool] = field(init=False)  # asked before each picture, by each process
    steps: set[int] = field(default_factory=set)  # drawn by this process
    harmless: Harmless = field(init=False)
    previews: Previews = field(init=False)
    begun: int = field(init=False)  # the step that the run continues from

    def __post_init__(self) -> None:
        self.harmless, self.stopped = Harmless("validation", self.world), never
        self.begun = self.state.step
        plan, step = self.caches.prepared.plan, lambda: self.state.step
        main = self.world.main
        self.previews = Previews(plan, self.world.device, main, step, self.stream.emit)

    @property
    def plan(self) -> Plan:
        """Of the run."""
        return self.caches.prepared.plan

    @property
    def folder(self) -> Path:
        """Of the pictures of the present weights."""
        return self.plan.output_dir / PICTURES

    def begin(self, stopped: Callable[[], bool]) -> None:
        """Draws before the first step of this process. stopped: whether a signal came; asked before
        each picture until the loop ends, by every process."""
        self.stopped = stopped
        times = self.plan.pictures.times
        if times.base_model and self.prompts:
            with self.harmless.at(self.state.step):
                self._draw_base()
        if times.on_startup and self.state.step < self.plan.steps:
            self.draw()

    def chores(self, schedule: Schedule) -> list[Chore]:
        """When the loop draws."""
        times, steps = self.plan.pictures.times, self.plan.steps
        due = [every(times.every_steps.value)]
        if times.every_epochs:
            due.append(epoch_ends(schedule, times.every_epochs, self.plan.batches_per_step))

        def begun(s: TrainState) -> bool:
            epochs = schedule.begin(s.position)[0] if times.after_epoch else 0
            return s.step >= times.after_step and epochs >= times.after_epoch

        def now(s: TrainState) -> bool:
            return s.step < steps and any(is_due(s) for is_due in due) and begun(s)

        return [Chore(now, self.draw)] if self.prompts else []

    def draw(self, kind: Kind = "during") -> tuple[Path, ...]:
        """Pictures of the present weights, in each version that the plan has. Returns their files,
        in process 0."""
        files: list[Path] = []
        with self.harmless.at(self.state.step):
            job = self._job()
            wanted = pictures(job, self.state.step)
            for folder, values in pictured(self.state, job.plan.pictures.weights) if wanted else []:
                at = self.folder / folder
                files += self._draw(job, wanted, values, at, kind)
                if self.world.main:
                    steps = self._steps_in(at, [name_of(p, job.plan) for p in wanted])
                    self.stream.emit(run_sheets.grid(job.plan, at, wanted, steps))
            self.steps.add(self.state.step)
        return tuple(files)

    def _steps_in(self, folder: Path, names: Sequence[str]) -> set[int]:
        """The steps that have pictures: this process's, and those before a resume."""
        before = steps_in(folder, names) if self.begun else ()
        return {self.state.step, *self.steps, *(s for s in before if s <= self.begun)}

    def end(self) -> tuple[tuple[Path, ...], Path | None]:
        """Draws the result. Returns the pictures, and the sheet that has the base model beside
        it."""
        self.stopped = never
        files, sheet = self.draw("end"), None
        with self.harmless.at(self.state.step):
            if files:
                wanted = pictures(self._job(), self.state.step)
                at = files[-1].parent  # of the average, where there is one
                sheet = run_sheets.before_after(self.plan, at, wanted, self.state.step)
            if sheet is not None:
                self.stream.emit(sheet)
        return files, None if sheet is None else sheet.path

    def _draw_base(self) -> None:
        """Draws the pictures of the base model that are missing, where its weights are there."""
        trained, at = self.state.trained, self.plan.output_dir / BASE_PICTURES
        if self.state.step and not trained.keeps_base:
            return
        job = self._job()
        wanted = pictures(job, self.state.step)
        missing = [not (at / name_of(p, self.plan)).is_file() for p in wanted]
        missing = self.world.gathered((missing,))[0]  # the folder of process 0 counts
        wanted = [p for p, is_missing in zip(wanted, missing, strict=True) if is_missing]
        if wanted:
            values = trained.off if trained.keeps_base else nullcontext
            self._draw(job, wanted, values, at, "base")

    def _job(self) -> PictureJob:
        scaled = self.state.trained.scaled
        return PictureJob(
            self.plan, self.prompts, self.caches.embeds, self.world, scaled, self.stopped,
            self.previews.watching, weights_only_layers(self.state.model),
        )  # fmt: skip

    def _draw(
        self,
        job: PictureJob,
        wanted: Sequence[Picture],
        values: Values,
        at: Path,
        kind: Kind,
    ) -> list[Path]:
        """Draws and writes one version of the weights."""
        files: list[Path] = []
        drawn: list[tuple[Picture, Any]] = []
        step, plan = self.state.step, job.plan
        weights = BASE if kind == BASE else at.name if at != self.folder else ""
        sums: list[str | None] = []  # of the adapter, when its values are in place

        def receive(picture: Picture, image: Any) -> None:
            name = name_of(picture, plan)
            path = at / (name if kind == BASE else of_step(step, name))
            with disk.explained("write pictures in", at):
                if not sums:  # split values would have to be gathered by every process
                    known = kind != BASE and not plan.parallel.sharded
                    sums.append(self.state.trained.weights_sha256() if known else None)
                about = texts(job, picture, step, weights or LAST, sums[0])
                keep(image, path, about, plan.pictures.quality)
            files.append(path)
            drawn.append((picture, image))
            self.stream.emit(
                PictureDrawn(step, path, picture.shortname, picture.prompt, picture.size,
                             picture.seed, picture.index, weights, kind)
            )  # fmt: skip

        draw_pictures(job, self.state.model, wanted, values, receive)
        for observer in self.observers if drawn else ():
            with self.harmless.at(step):
                observer(Validated(step, kind, weights, drawn))
        return files


def never() -> bool:
    """No signal ends what is drawn."""
    return False
