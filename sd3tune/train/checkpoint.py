"""A checkpoint is a folder that is either whole or not there.

Written under a temporary name, synced to disk, described by a manifest of checksums, then renamed.
Safetensors and JSON only: opening somebody's checkpoint runs no code. It holds exactly TrainState,
the plan with its configuration, and, for people, what is trained as other programs load it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sd3tune.errors import CheckpointError, Sd3tuneError
from sd3tune.filesystem import disk
from sd3tune.formats import manifest
from sd3tune.formats.manifest import (
    MANIFEST,
    RUN,
    STATE,
    SUFFIXES,
    Kind,
    damage,
    folders,
    is_ours,
    latest,
    step_of,
)
from sd3tune.plan.memory import gib
from sd3tune.train import optim_state
from sd3tune.train.checkpoint_draft import CheckpointDraft, filling, sync
from sd3tune.train.pruning import DRAFT, OLD, clear, prune
from sd3tune.train.state import TrainState
from sd3tune.train.state_files import Files, collect, restore, size_bytes

__all__ = ["MANIFEST", "damage", "folders", "latest", "load", "prune", "save", "step_of"]

SPARE_BYTES = 256 * 2**10  # manifest, folders, and the rest of each file's last block


@dataclass(frozen=True)
class Beside:
    """More files of a checkpoint, for people: of about so many bytes, written into its folder."""

    write: Callable[[Path], object]
    size_bytes: int


def save(
    state: TrainState,
    output: Path,
    described: str,
    *,
    kind: Kind = "regular",
    beside: Beside | None = None,
    main: bool = True,
) -> Path:
    """Writes `output/checkpoint-<step>` and returns it; `-2` is added where somebody else has that
    name. described: the plan in JSON, as `sd3tune plan --json` prints it. main: this process
    writes; the others only give their part of what is sharded. Raises CheckpointError; earlier
    checkpoints stay whole."""
    files, facts = collect(state, keep=main)
    final = output / f"checkpoint-{state.step}{SUFFIXES[kind]}"
    if not main:
        return final
    draft, final = _free(final, state.lineage.run)
    try:
        output.mkdir(parents=True, exist_ok=True)
        run = json.dumps(asdict(state.lineage), indent=1)
        # The standard library's fast encoder cannot indent.
        texts = {STATE: json.dumps(facts), "plan.json": described, RUN: run}
        _check_room(size_bytes(files, texts) + (beside.size_bytes if beside else 0), output)
        draft.mkdir()
        with filling(draft) as writing:
            _write(writing, files, texts, beside)
        _replace(draft, final)
    except OSError as e:
        shutil.rmtree(draft, ignore_errors=True)
        raise _refusal(final, e) from e
    return final


def _free(final: Path, run: str) -> tuple[Path, Path]:
    """Where to write, and the name to give it: `final`, or the next name that is free or holds this
    run's checkpoint of this step."""
    name, number = final.name, 1
    while True:
        draft = final.with_name(f".{final.name}{DRAFT}")
        clear(draft)
        taken = os.path.lexists(final) and not _replaceable(final, run)
        if not taken and not os.path.lexists(draft):
            return draft, final
        number += 1
        final = final.with_name(f"{name}-{number}")


def _replaceable(final: Path, run: str) -> bool:
    """Ours, and of this step as far as it can be read."""
    with suppress(OSError, ValueError):
        if manifest.is_renamed(final):
            return False
    return is_ours(final, run)


def _check_room(size: int, output: Path) -> None:
    """Half a checkpoint is never begun."""
    disk_of_output = shutil.disk_usage(output)
    if disk_of_output.total == 0:  # some network file systems do not say
        return
    need = size + SPARE_BYTES
    if disk_of_output.free < need:
        raise CheckpointError(
            f"a checkpoint takes {gib(need)}, `{output}` has {gib(disk_of_output.free)} left",
            hint="free some space, or lower checkpoints_total_limit; earlier checkpoints are "
            "whole, and the same command continues from the newest",
        )


def _refusal(final: Path, error: Exception) -> CheckpointError:
    """A disk's error, with what is kept."""
    why, remedy = disk.reason(error)
    kept = "earlier checkpoints are whole, and the same command continues from the newest"
    return CheckpointError(f"cannot write `{final}`: {why}", hint=f"{remedy}; {kept}")


def _write(
    draft: CheckpointDraft,
    files: Files,
    texts: Mapping[str, str],
    beside: Beside | None,
) -> None:
    for name, tensors in files.items():
        draft.write_tensors(name, tensors)
    for name, text in texts.items():
        draft.write_bytes(name, text.encode())
    if beside is not None:
        beside.write(draft.folder)
    draft.seal()


def copy(state: TrainState, folder: Path, output: Path) -> tuple[Path, Path]:
    """A copy of a whole checkpoint as one of the run that `state` is: where it lies, and the name
    to give it. A kill before it has that name leaves it to `recover`. Raises OSError."""
    draft, final = _free(output / f"checkpoint-{state.step}", state.lineage.run)
    draft.mkdir()
    try:
        with filling(draft) as writing:
            for name in manifest.listing(folder):
                shutil.copyfile(folder / name, draft / name)
            writing.write_bytes(RUN, json.dumps(asdict(state.lineage), indent=1).encode())
            writing.seal()
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return draft, final


def _replace(draft: Path, final: Path) -> None:
    """One step is never two folders, and never none: the older one is moved away first, and a kill
    in between leaves both under names that `recover` knows."""
    old = final.with_name(f".{final.name}{OLD}")
    clear(old)
    if final.exists():
        final.rename(old)
    draft.rename(final)
    sync(final.parent)
    clear(old)


def load(state: TrainState, folder: Path) -> None:
    """Puts a checkpoint into `state`. Raises CheckpointError when it is torn or of another run."""
    if (why := damage(folder)) is not None:
        raise CheckpointError(
            f"`{folder}` cannot be resumed: {why}",
            hint="resume_from_checkpoint=latest takes the newest whole one, `never` starts afresh",
        )
    with _fitting(folder):
        facts = manifest.facts(folder)
    if facts.optimizer_class != (kind := optim_state.kind(state.optimizer)):
        raise CheckpointError(
            f"`{folder}` was written by {facts.optimizer_class}, this run uses {kind}",
            hint="set optimizer as it was, or resume_from_checkpoint=never",
        )
    with _fitting(folder):
        restore(state, folder, facts)
    if (lineage := manifest.lineage(folder)).run:
        state.lineage = lineage


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Contents that have their checksums and still are not the state of this run."""
    try:
        yield
    except (Sd3tuneError, MemoryError, torch.OutOfMemoryError):
        raise
    # safetensors, torch and five libraries of optimizers each raise what they like.
    except Exception as e:
        why = f"{e} is missing" if isinstance(e, KeyError) else str(e).strip().split("\n")[0]
        raise CheckpointError(
            f"`{folder}` does not fit this run: {why or type(e).__name__}",
            hint="set model, optimizer and adapter as they were, or resume_from_checkpoint=never",
        ) from e
