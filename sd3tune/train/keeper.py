"""Checkpoints during training: when one is due, its content, and which older ones are removed."""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from sd3tune.data.order import Schedule
from sd3tune.errors import CheckpointError, Diverged
from sd3tune.filesystem import disk
from sd3tune.formats.manifest import Kind
from sd3tune.plan.describe import describe
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report.events import CheckpointSaved
from sd3tune.report.progress import say
from sd3tune.report.stream import Stream
from sd3tune.train import checkpoint
from sd3tune.train.lock import Claim
from sd3tune.train.loop import Chore, every
from sd3tune.train.pruning import Verified, prune
from sd3tune.train.result_metadata import about
from sd3tune.train.results import versions
from sd3tune.train.state import TrainState
from sd3tune.train.state_files import HEADER_BYTES


@dataclass
class Keeper:
    """Writes checkpoints, each step once."""

    state: TrainState
    plan: Plan
    world: World
    last: int = 0  # step of the newest ordinary one
    verified: Verified = field(default_factory=Verified)
    stream: Stream = field(default_factory=Stream)

    def save(self, kind: Kind = "regular") -> Path | None:
        """Writes the checkpoint of this step, and removes those beyond the limit. None when this
        step has one. Raises CheckpointError."""
        if self.last == self.state.step and kind != "best":
            return None
        try:
            folder = self._save(kind)
        except CheckpointError as e:
            # output_dir was removed while it was written to. Several processes save together.
            if self.world.size > 1 or disk.number(e.__cause__ or e) != errno.ENOENT:
                raise
            folder = self._save(kind)
        if self.world.main:
            limits = self.plan.checkpoints
            most = {"regular": limits.keep, "rolling": limits.keep_rolling, "best": 1}
            self.verified.add(folder)
            prune(
                self.plan.output_dir,
                most[kind],
                kind=kind,
                run=self.state.lineage.run,
                newest=folder,
                verified=self.verified,
            )
        self.stream.emit(CheckpointSaved(self.state.step, folder, kind))
        self.last = self.state.step if kind == "regular" else self.last
        return folder

    def _save(self, kind: Kind) -> Path:
        trained, written = self.state.trained, about(self.plan, self.state.step)
        values = self._exported() if trained.light else {}
        beside = None
        if values:
            size = trained.file_bytes(values) + HEADER_BYTES * len(values)
            beside = checkpoint.Beside(partial(trained.write, values=values, about=written), size)
        return checkpoint.save(
            self.state,
            self.plan.output_dir,
            self._described,
            kind=kind,
            beside=beside,
            main=self.world.main,
        )

    @cached_property
    def _described(self) -> str:
        return json.dumps(describe(self.plan), indent=1)

    def _exported(self) -> dict[str, Tensor]:
        """The trained values as the result would have them now; empty in a process that does not
        write."""
        with versions(self.state)[0].values():
            return self.state.trained.values(keep=self.world.main)

    def chores(self, schedule: Schedule) -> list[Chore]:
        """When the loop saves."""
        when = self.plan.checkpoints
        chores = [Chore(every(when.every_steps), self.save)]
        if when.every_epochs:
            due = epoch_ends(schedule, when.every_epochs, self.plan.batches_per_step)
            chores.append(Chore(due, self.save))
        if when.rolling_steps:
            chores.append(Chore(every(when.rolling_steps), lambda: self.save("rolling")))
        return chores


def epoch_ends(schedule: Schedule, epochs: int, per_step: int) -> Callable[[TrainState], bool]:
    """Due after the step that finishes each so many epochs."""

    def finished(position: int) -> int:
        return schedule.begin(position)[0] // epochs if position > 0 else 0

    return lambda state: finished(state.position) > finished(state.position - per_step)


@contextmanager
def saved_on_failure(keeper: Keeper, claim: Claim) -> Iterator[None]:
    """Saves the last finished step when training ends by an error other than divergence or a failed
    checkpoint: a disk, an image, memory, or a bug. Nothing is saved with several processes, because
    they may be at different steps. In the end waits until old checkpoints are removed."""
    try:
        yield
    except (CheckpointError, Diverged):
        raise
    except Exception:
        if keeper.world.size == 1 and not keeper.state.updating:
            with suppress(Exception):  # the first failure is the one to report
                claim.renew()
                if (folder := keeper.save()) is not None:
                    say(f"saved    {folder}; the same command continues from there")
        raise
    finally:
        keeper.verified.removals.wait()
