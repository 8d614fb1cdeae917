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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.adapters.trained import like, put, take, whole
from sd3tune.errors import CheckpointError, Sd3tuneError
from sd3tune.filesystem import disk
from sd3tune.formats import manifest
from sd3tune.formats.manifest import (
    AVERAGE,
    FORMAT,
    MANIFEST,
    OPTIMIZER,
    ROLLING,
    RUN,
    STATE,
    TRAINED,
    checksum,
    damage,
    folders,
    is_ours,
    latest,
    step_of,
)
from sd3tune.plan.memory import gib
from sd3tune.train import optim_state
from sd3tune.train.pruning import DRAFT, OLD, clear, prune
from sd3tune.train.state import TrainState

__all__ = ["MANIFEST", "damage", "folders", "latest", "load", "prune", "save", "step_of"]

TENSOR = "tensor"  # {"tensor": name} in JSON stands for one
# Of TrainState, as JSON.
NUMBERS = ("step", "position", "noise", "loss_before", "recent_losses", "lowered_until")
SPARE_BYTES = 256 * 2**10  # manifest, folders, and the rest of each file's last block
HEADER_BYTES = 256  # of a safetensors file, for one tensor: its name, dtype, shape and offsets

Files = Mapping[str, Mapping[str, Tensor]]


def save(
    state: TrainState,
    output: Path,
    described: Mapping[str, Any],
    *,
    rolling: bool = False,
    beside: Callable[[Path], object] | None = None,
    beside_bytes: int = 0,
    main: bool = True,
) -> Path:
    """Writes `output/checkpoint-<step>` and returns it; `-2` is added where somebody else has that
    name. described: what `sd3tune plan --json` printed. beside: writes more files, of about
    `beside_bytes`, into the folder it is given. main: this process writes; the others only give
    their part of what is sharded. Raises CheckpointError;
    earlier checkpoints stay whole."""
    files, facts = _taken(state, keep=main)
    final = output / f"checkpoint-{state.step}{ROLLING if rolling else ''}"
    if not main:
        return final
    draft, final = _free(final, state.lineage.run)
    try:
        output.mkdir(parents=True, exist_ok=True)
        documents = {STATE: facts, "plan.json": described, RUN: asdict(state.lineage)}
        texts = {name: json.dumps(d, indent=1) for name, d in documents.items()}
        _check_room(size_bytes(files, texts) + beside_bytes, output)
        draft.mkdir()
        _write(draft, files, texts, beside)
        _replace(draft, final)
    except (OSError, SafetensorError) as e:
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


def _taken(state: TrainState, *, keep: bool) -> tuple[Files, dict[str, Any]]:
    """Everything on the CPU: tensors by file, and JSON. keep=False: takes part in gathering."""
    tensors: dict[str, Tensor] = {}
    rest = _flatten(optim_state.take(state.optimizer), "", tensors, keep)
    files: dict[str, Mapping[str, Tensor]] = {
        TRAINED: take(state.trained, keep=keep),
        OPTIMIZER: tensors,
    }
    if state.ema is not None:
        files[AVERAGE] = state.ema.take(keep=keep)
    facts = {
        "format": FORMAT,
        **{name: getattr(state, name) for name in NUMBERS},
        "scaler": state.scaler.state_dict(),
        "optimizer": rest,
        "optimizer_class": optim_state.kind(state.optimizer),
    }
    return files, facts


def size_bytes(files: Files, texts: Mapping[str, str]) -> int:
    """Of the files of a checkpoint, without what is written beside them."""
    tensors = [t for file in files.values() for t in file.values()]
    data: int = sum(t.numel() * t.element_size() + HEADER_BYTES for t in tensors)
    return data + sum(len(text) for text in texts.values())  # JSON of ours is ASCII


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
    folder: Path,
    files: Files,
    texts: Mapping[str, str],
    beside: Callable[[Path], object] | None,
) -> None:
    for name, tensors in files.items():
        save_file(dict(tensors), folder / name)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if beside is not None:
        beside(folder)
    _seal(folder)


def _seal(folder: Path) -> None:
    """The manifest, and everything on disk."""
    written = sorted(p for p in folder.rglob("*") if p.is_file())
    listed = {p.relative_to(folder).as_posix(): checksum(p) for p in written}
    (folder / MANIFEST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    for path in (*written, folder / MANIFEST):
        _sync(path)
    for path in sorted({p.parent for p in written}):
        _sync(path)


def copy(state: TrainState, folder: Path, output: Path) -> tuple[Path, Path]:
    """A copy of a whole checkpoint as one of the run that `state` is: where it lies, and the name
    to give it. A kill before it has that name leaves it to `recover`. Raises OSError."""
    draft, final = _free(output / f"checkpoint-{state.step}", state.lineage.run)
    draft.mkdir()
    try:
        for name in manifest.listing(folder):
            shutil.copyfile(folder / name, draft / name)
        (draft / RUN).write_text(json.dumps(asdict(state.lineage), indent=1), encoding="utf-8")
        _seal(draft)
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
    _sync(final.parent)
    clear(old)


def load(state: TrainState, folder: Path) -> None:
    """Puts a checkpoint into `state`. Raises CheckpointError when it is torn or of another run."""
    if (why := damage(folder)) is not None:
        raise CheckpointError(
            f"`{folder}` cannot be resumed: {why}",
            hint="resume_from_checkpoint=latest takes the newest whole one, never starts afresh",
        )
    with _fitting(folder):
        facts = manifest.facts(folder)
    if facts.optimizer_class != (kind := optim_state.kind(state.optimizer)):
        raise CheckpointError(
            f"`{folder}` was written by {facts.optimizer_class}, this run uses {kind}",
            hint="set optimizer as it was, or resume_from_checkpoint=never",
        )
    with _fitting(folder):
        put(state.trained, load_file(folder / TRAINED))
        tensors = load_file(folder / OPTIMIZER)
        optim_state.put(state.optimizer, _placed(_unflatten(facts.optimizer, tensors), state))
        state.scaler.load_state_dict(facts.scaler)
        _load_average(state, folder)
    for name in NUMBERS:
        setattr(state, name, getattr(facts, name))
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


def _load_average(state: TrainState, folder: Path) -> None:
    if state.ema is None:
        return
    if AVERAGE not in manifest.listing(folder):
        raise CheckpointError(
            f"`{folder}` was written without a moving average, this run has use_ema=true",
            hint="set use_ema=false, or resume_from_checkpoint=never",
        )
    average = load_file(folder / AVERAGE)
    for name, parameter in state.trained.named().items():
        if average[name].shape != parameter.shape:
            raise ValueError(f"the average of `{name}` has shape {tuple(average[name].shape)}")
    state.ema.put(average)


def _placed(saved: dict[str, Any], state: TrainState) -> dict[str, Any]:
    """Moments of sharded parameters, cut into shards as those are."""
    for number, parameter in enumerate(
        p for g in state.optimizer.param_groups for p in g["params"]
    ):
        moments = saved["state"].get(number, {})
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                moments[name] = like(value, parameter)
    return saved


def _flatten(value: Any, path: str, tensors: dict[str, Tensor], keep: bool) -> Any:
    """JSON for everything but tensors, which go to `tensors` under their path. Optimizers nest
    freely: bitsandbytes keeps a dict per parameter, optimi a tensor per group."""
    if isinstance(value, torch.Tensor):
        value = optim_state.plain(whole(value))
    if isinstance(value, torch.Tensor):
        if keep:
            tensors[path] = value.cpu().contiguous().clone()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): _flatten(v, f"{path}/{k}", tensors, keep) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_flatten(v, f"{path}/{i}", tensors, keep) for i, v in enumerate(value)]
    return value


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        # JSON made words of the numbers that name parameters.
        return {int(k) if k.isdigit() else k: _unflatten(v, tensors) for k, v in value.items()}
    return [_unflatten(v, tensors) for v in value] if isinstance(value, list) else value


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
