"""What a run leaves: the files that other programs load, and what may not be in their way."""

import errno
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES
from sd3tune.encode.everything import PLAN_CHANGES, SET_ASIDE
from sd3tune.filesystem import disk, drafts
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report import metrics
from sd3tune.train.optim import averaged
from sd3tune.train.result_metadata import about
from sd3tune.train.state import TrainState

DRAFT = ".result.tmp"  # beside the result, while it is written
LAST = "last"  # in output_dir: the last values, where the result is their average


@dataclass(frozen=True)
class Version:
    """One version of the trained values: the last ones, or their moving average."""

    name: str
    folder: str  # below output_dir
    values: Callable[[], AbstractContextManager[None]]  # in the model, as long as they are open


def versions(state: TrainState) -> list[Version]:
    """The result first."""
    own = partial(averaged, state.optimizer)  # some optimizers keep an average of their own
    if state.ema is None:
        return [Version("result", "", own)]
    return [Version("average", "", state.ema.instead), Version("last", LAST, own)]


def pictured(
    state: TrainState, asked: str
) -> list[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """Folder and values for validation pictures: the last values, their average, or both.
    asked: ema_validation."""
    drawn: list[tuple[str, Callable[[], AbstractContextManager[None]]]] = []
    if state.ema is None or asked != "ema_only":
        drawn.append(("", partial(averaged, state.optimizer)))
    if state.ema is not None and asked != "none":
        drawn.append(("ema", state.ema.instead))
    return drawn


def refuse_in_the_way(output: Path) -> None:
    """Raises DiskError before training for a result that could not be written after it."""
    with disk.explained("write", output / metrics.FILE):
        (output / metrics.FILE).open("ab").close()
    for path in (output / SET_ASIDE, output / PLAN_CHANGES):
        if path.is_dir():
            raise disk.refusal("write", path, IsADirectoryError(errno.EISDIR, ""))
    for folder in (output / PICTURES, output / BASE_PICTURES, output / LAST):
        if folder.exists() and not folder.is_dir():
            raise disk.refusal("write in", folder, NotADirectoryError(errno.ENOTDIR, ""))


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
            written = state.trained.write(draft, values, about(plan, state.step))
            _into_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / written.relative_to(draft)


def _into_place(draft: Path, folder: Path) -> None:
    """Moves every file of `draft` to its place in `folder`, each when it is on the disk."""
    for path in sorted(p for p in draft.rglob("*") if p.is_file()):
        target = folder / path.relative_to(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        drafts.settle(path, target)
