"""Where a run begins: afresh, at its newest whole checkpoint, or at one that the user names.

Process 0 decides and moves folders for all processes. Checkpoints that the run leaves behind are
moved to `earlier-<n>` in output_dir and never removed. A kill in between leaves each of them in one
of the two places.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from sd3tune.errors import CheckpointError
from sd3tune.filesystem import disk
from sd3tune.formats import manifest
from sd3tune.formats.manifest import Named
from sd3tune.plan.plan import Plan
from sd3tune.preflight import checkpoint_folder
from sd3tune.processes.world import World
from sd3tune.report import metrics
from sd3tune.report.progress import say, warn
from sd3tune.train import checkpoint
from sd3tune.train.pruning import recover
from sd3tune.train.state import TrainState

EARLIER = "earlier"  # in output_dir: what was not continued
T = TypeVar("T")


@dataclass(frozen=True)
class Beginning:
    """Where a run begins."""

    folder: Path | None  # None: step 0
    named: Named | None = None  # the run goes back to it, and leaves what lies beyond


def resume(state: TrainState, plan: Plan, world: World) -> None:
    """Loads the requested checkpoint into `state`. Raises CheckpointError before anything is
    moved."""
    restarted = world.processes.restarts > 0
    begins = decided(
        world, lambda: beginning(plan.checkpoints.resume, plan.output_dir, restarted=restarted)
    )
    if begins.folder is None:
        return
    checkpoint.load(state, begins.folder)
    if state.step > plan.steps:
        raise CheckpointError(
            f"`{begins.folder}` is at step {state.step}, max_train_steps is {plan.steps}",
            hint="raise max_train_steps, or set resume_from_checkpoint",
        )
    if begins.named is not None:
        state.lineage = replace(state.lineage, named=begins.named)
        world.wait()  # all have read it
        go_back = partial(_go_back, state, begins.folder, plan.output_dir)
        decided(world, go_back)
    say(f"resumes  {begins.folder} (step {state.step} of {plan.steps})")


def _go_back(state: TrainState, folder: Path, output: Path) -> None:
    """Makes `folder` the newest checkpoint of output_dir, so that the next start continues from it.
    Later checkpoints are put away. A folder outside output_dir is copied into it, and every
    checkpoint that was there is put away."""
    if folder.resolve().parent == output.resolve():
        put_away(output, beyond=state.step)
        return
    draft, final = checkpoint.copy(state, folder, output)
    put_away(output)
    draft.rename(final)


def decided(world: World, decide: Callable[[], T]) -> T:
    """The answer of process 0, given to every process. Its error is raised in every process. Every
    process waits for the answer."""
    answer: T | tuple[str, str]
    try:
        answer = decide() if world.main else ("", "")
    except CheckpointError as e:
        answer = str(e), e.hint
    except OSError as e:
        why, remedy = disk.reason(e)
        answer = f"`{e.filename or 'output_dir'}`: {why}", remedy
    answer = world.gathered((answer,))[0]
    if isinstance(answer, tuple):
        raise CheckpointError(answer[0], hint=answer[1])
    return answer


def beginning(asked: str, output: Path, *, restarted: bool) -> Beginning:
    """asked: resume_from_checkpoint. restarted: the launcher restarted the run because a process
    was lost; `never` then continues from the newest checkpoint."""
    recover(output)
    if asked == "never" and not restarted:
        put_away(output)
        return Beginning(None)
    newest, passed = manifest.latest(output)
    if asked not in ("latest", "never"):
        return _named(asked, output, newest)
    for sentence in passed:
        warn(f"{sentence}")
    if newest is None:
        if asked == "latest":
            _refuse_damaged(output)
        put_away(output)
    return Beginning(newest)


def _named(asked: str, output: Path, newest: Path | None) -> Beginning:
    """At the checkpoint that `--resume` names; at the newest one when that went on from it: the
    same command, started again after a pre-emption, continues."""
    folder = checkpoint_folder(asked, output)
    before = manifest.lineage(newest).named if newest else None
    if newest is not None and before is not None:
        same = (
            before.name == Path(asked).name
            if folder is None
            else before.manifest == _named_as(folder).manifest
        )
        if same and newest != folder:
            say(f"note: `{newest}` went on from {before.name}, so it is continued; to begin at "
                f"{before.name} again, move newer ones out of {output}")  # fmt: skip
            return Beginning(newest)
    if folder is None:
        raise CheckpointError(f"`resume_from_checkpoint={asked}`: there is no such folder",
                              hint="give a checkpoint's path, `latest` or `never`")  # fmt: skip
    return Beginning(folder, _named_as(folder))


def _named_as(folder: Path) -> Named:
    try:
        return Named(folder.name, manifest.checksum(folder / manifest.MANIFEST))
    except OSError:
        return Named(folder.name, "")


def _refuse_damaged(output: Path) -> None:
    """Steps that were paid for are not trained again unasked."""
    if damaged := manifest.damaged(output):
        raise CheckpointError(
            f"no checkpoint in `{output}` is whole: {'; '.join(damaged)}",
            hint="put a whole one there, or start afresh with --resume never "
            "(resume_from_checkpoint=never)",
        )


def put_away(output: Path, *, beyond: int = 0) -> None:
    """Moves checkpoints beyond a step, and their metrics, to a new `earlier-<n>`. Raises OSError.

    Rows are copied before the first checkpoint moves and go from metrics.jsonl with the first new
    row; the highest step moves first: what is left after a kill can be put away, or continued."""
    leaving = [f for f in reversed(manifest.folders(output))
               if manifest.step_of(f) > beyond and manifest.is_ours(f)]  # fmt: skip
    log = output / metrics.FILE
    rows = metrics.has_rows(log, beyond)
    if not leaving and (beyond or not rows):
        return  # rows beyond the newest checkpoint are written again
    away = _new_folder(output)
    if rows and beyond:
        metrics.copy_rows(log, away / log.name, beyond)
    for folder in leaving:
        folder.rename(away / folder.name)
    if rows and not beyond:
        log.rename(away / log.name)
    parts = [f"{len(leaving)} checkpoint{'s' * (len(leaving) > 1)}"] if leaving else []
    parts += ["metrics"] if rows else []
    whose = f"beyond step {beyond}" if beyond else "of an earlier run"
    say(f"moved    {' and '.join(parts)} {whose} to {away}")


def _new_folder(output: Path) -> Path:
    number = 1
    while os.path.lexists(folder := output / f"{EARLIER}-{number}"):
        number += 1
    folder.mkdir()
    return folder
