"""What a run leaves: the files other programs load, and checkpoints on the way."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from sd3tune.data.order import Schedule
from sd3tune.errors import CheckpointError
from sd3tune.filesystem import disk
from sd3tune.formats import file_metadata
from sd3tune.plan.describe import describe
from sd3tune.plan.resolve import Plan
from sd3tune.processes.world import World
from sd3tune.train import checkpoint
from sd3tune.train.loop import Chore, every
from sd3tune.train.optim import averaged
from sd3tune.train.pictures import default_size
from sd3tune.train.pruning import Verified, prune
from sd3tune.train.state import TrainState

DRAFT = ".result.tmp"  # beside the result, while it is written
LAST = "last"  # in output_dir: the last values, where the result is their average
T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """Values of what is trained: the last ones, or their moving average."""

    name: str
    folder: str  # below output_dir
    values: Callable[[], AbstractContextManager[None]]

    def during(self, do: Callable[[], T]) -> T:
        with self.values():
            return do()


def versions(state: TrainState) -> list[Version]:
    """The result first."""
    own = partial(averaged, state.optimizer)  # some optimizers keep an average of their own
    if state.ema is None:
        return [Version("result", "", own)]
    return [Version("average", "", state.ema.instead), Version("last", LAST, own)]


def write(state: TrainState, plan: Plan, folder: Path, world: World) -> Path:
    """The present values as other programs load them; whole or not there. Every process must call
    this, since parameters may be split over them; the first one writes."""
    values = state.trained.values(keep=world.main)
    if not world.main:
        return folder
    kept = f"checkpoint-{state.step} holds what was trained, and the same command continues"
    draft = folder / DRAFT
    try:
        with disk.explained("write the result in", folder, then=kept):
            shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
            draft.mkdir(parents=True)
            written = state.trained.write(draft, values, about(plan, state))
            _into_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / written.relative_to(draft)


def _into_place(draft: Path, folder: Path) -> None:
    for path in sorted(p for p in draft.rglob("*") if p.is_file()):
        with path.open("rb") as f:
            os.fsync(f.fileno())
        target = folder / path.relative_to(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def about(plan: Plan, state: TrainState) -> dict[str, str]:
    """Metadata of the file."""
    c = plan.config
    kind = "" if c.model_type == "full" else "lycoris" if plan.lycoris else "lora"
    facts = file_metadata.modelspec(
        plan.model.name, title=c.output_dir.name, resolution=default_size(plan)[0], kind=kind
    )
    return facts | {"sd3tune_step": str(state.step)}


@dataclass
class Keeper:
    """Writes checkpoints, each step once."""

    state: TrainState
    plan: Plan
    world: World
    last: int = 0  # step of the newest ordinary one
    verified: Verified = field(default_factory=Verified)

    def __call__(self, *, rolling: bool = False) -> Path | None:
        """The checkpoint; None when this step has one."""
        config = self.plan.config
        if self.last == self.state.step:
            return None
        try:
            folder = self._save(rolling)
        except CheckpointError as e:
            # output_dir was removed while it was written to. Several processes save together.
            if self.world.size > 1 or disk.number(e.__cause__ or e) != errno.ENOENT:
                raise
            folder = self._save(rolling)
        limit = (
            config.checkpoints_rolling_total_limit if rolling else config.checkpoints_total_limit
        )
        if self.world.main:
            self.verified.add(folder)
            prune(
                config.output_dir,
                limit,
                rolling=rolling,
                run=self.state.lineage.run,
                newest=folder,
                verified=self.verified,
            )
        self.last = self.last if rolling else self.state.step
        return folder

    def _save(self, rolling: bool) -> Path:
        trained, written = self.state.trained, about(self.plan, self.state)
        values = self._exported() if trained.light else {}
        return checkpoint.save(
            self.state,
            self.plan.config.output_dir,
            describe(self.plan),
            rolling=rolling,
            beside=partial(trained.write, values=values, about=written) if values else None,
            beside_bytes=trained.file_bytes(values) + checkpoint.HEADER_BYTES * len(values)
            if values
            else 0,
            main=self.world.main,
        )

    def _exported(self) -> dict[str, Tensor]:
        """What other programs load: the values that the result would have now; none in a process
        that does not write."""
        values = partial(self.state.trained.values, keep=self.world.main)
        return versions(self.state)[0].during(values)

    def chores(self, schedule: Schedule) -> list[Chore]:
        c = self.plan.config
        found = [Chore(every(c.checkpoint_step_interval), self)]
        if c.checkpoint_epoch_interval:
            due = epoch_ends(schedule, c.checkpoint_epoch_interval, self.plan.batches_per_step)
            found.append(Chore(due, self))
        if c.checkpointing_rolling_steps:
            due = every(c.checkpointing_rolling_steps)
            found.append(Chore(due, lambda: self(rolling=True)))
        return found


def epoch_ends(schedule: Schedule, epochs: int, per_step: int) -> Callable[[TrainState], bool]:
    """Due after the step that finishes each so many epochs."""

    def finished(position: int) -> int:
        return schedule.begin(position)[0] // epochs if position > 0 else 0

    return lambda state: finished(state.position) > finished(state.position - per_step)
