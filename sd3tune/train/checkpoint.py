"""A checkpoint is a folder that is either whole or not there.

Written under a temporary name, synced to disk, described by a manifest of checksums, then renamed.
Safetensors and JSON only: opening somebody's checkpoint runs no code. It holds exactly TrainState,
the plan with its configuration, and, for people, what is trained as other programs load it.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune import disk
from sd3tune.adapters.trained import like, put, take, whole
from sd3tune.errors import CheckpointError
from sd3tune.plan.memory import gib
from sd3tune.train import optim_state
from sd3tune.train.state import TrainState

FORMAT = 2
MANIFEST = "manifest.json"
TENSOR = "tensor"  # {"tensor": name} in JSON stands for one
ROLLING = "-rolling"  # ends the name of one that is kept for a while only
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
    """Writes `output/checkpoint-<step>` and returns it. described: what `sd3tune plan --json`
    printed. beside: writes more files, of about `beside_bytes`, into the folder it is given. main:
    this process writes; the others only give their part of what is sharded. Raises CheckpointError;
    earlier checkpoints stay whole."""
    files, facts = _taken(state, keep=main)
    final = output / f"checkpoint-{state.step}{ROLLING if rolling else ''}"
    if not main:
        return final
    draft = output / f".{final.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
        documents = {"state.json": facts, "plan.json": described}
        texts = {name: json.dumps(d, indent=1) for name, d in documents.items()}
        _check_room(size_bytes(files, texts) + beside_bytes, output)
        draft.mkdir()
        _write(draft, files, texts, beside)
        _replace(draft, final)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(draft, ignore_errors=True)
        raise _refusal(final, e) from e
    return final


def _taken(state: TrainState, *, keep: bool) -> tuple[Files, dict[str, Any]]:
    """Everything on the CPU: tensors by file, and JSON. keep=False: takes part in gathering."""
    tensors: dict[str, Tensor] = {}
    rest = _flatten(optim_state.take(state.optimizer), "", tensors, keep)
    files: dict[str, Mapping[str, Tensor]] = {
        "trained.safetensors": take(state.trained, keep=keep),
        "optimizer.safetensors": tensors,
    }
    if state.ema is not None:
        files["ema.safetensors"] = state.ema.take(keep=keep)
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
    written = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {p.relative_to(folder).as_posix(): _checksum(p) for p in written}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*written, folder / MANIFEST):
        _sync(path)
    for path in sorted({p.parent for p in written}):
        _sync(path)


def _replace(draft: Path, final: Path) -> None:
    """One step is never two folders, and never none: the older one is moved away first."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    draft.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(state: TrainState, folder: Path) -> None:
    """Puts a checkpoint into `state`. Raises CheckpointError when it is torn or of another run."""
    if (why := damage(folder)) is not None:
        raise CheckpointError(
            f"`{folder}` cannot be resumed: {why}",
            hint="resume_from_checkpoint=latest takes the newest whole one, never starts afresh",
        )
    facts = json.loads((folder / "state.json").read_text())
    if facts["optimizer_class"] != (kind := optim_state.kind(state.optimizer)):
        raise CheckpointError(
            f"`{folder}` was written by {facts['optimizer_class']}, this run uses {kind}",
            hint="set optimizer as it was, or resume_from_checkpoint=never",
        )
    put(state.trained, load_file(folder / "trained.safetensors"))
    tensors = load_file(folder / "optimizer.safetensors")
    optim_state.put(state.optimizer, _placed(_unflatten(facts["optimizer"], tensors), state))
    state.scaler.load_state_dict(facts["scaler"])
    for name in NUMBERS:
        setattr(state, name, facts[name])
    _load_ema(state, folder)


def _load_ema(state: TrainState, folder: Path) -> None:
    if state.ema is None:
        return
    file = folder / "ema.safetensors"
    if not file.exists():
        raise CheckpointError(
            f"`{folder}` was written without a moving average, this run has use_ema=true",
            hint="set use_ema=false, or resume_from_checkpoint=never",
        )
    state.ema.put(load_file(file))


def latest(output: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The whole checkpoint of the highest step, and a sentence for each one passed over."""
    passed: list[str] = []
    for folder in sorted(folders(output), key=lambda p: (step_of(p), p.name), reverse=True):
        if (why := damage(folder)) is None:
            return folder, tuple(passed)
        passed.append(f"`{folder}` is passed over: {why}")
    return None, tuple(passed)


def folders(output: Path) -> list[Path]:
    """Checkpoints of a run, whole or not, oldest first."""
    found = [p for p in output.glob("checkpoint-*") if step_of(p) >= 0]
    return sorted(found, key=lambda p: (step_of(p), p.name))


def step_of(folder: Path) -> int:
    """-1 for a folder that is no checkpoint."""
    number = folder.name.removeprefix("checkpoint-").removesuffix(ROLLING)
    return int(number) if number.isdigit() else -1


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when every file has its checksum."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, checksum in manifest.items():
            if _checksum(folder / name) != checksum:
                return f"{name} does not have its checksum"
        facts = json.loads((folder / "state.json").read_text())
    except FileNotFoundError as e:
        return f"{Path(e.filename).name} is missing"
    except (OSError, ValueError, SafetensorError) as e:
        return str(e)
    if facts["format"] != FORMAT:
        return f"its format is {facts['format']}, this sd3tune reads {FORMAT}"
    return None


def prune(output: Path, keep: int, *, rolling: bool = False) -> None:
    """Removes the oldest checkpoints of one kind beyond `keep`; what a killed run left half
    written or half removed goes too."""
    found = [p for p in folders(output) if p.name.endswith(ROLLING) == rolling]
    for folder in found[: max(0, len(found) - keep)]:
        away = folder.with_name(f".{folder.name}.old")  # a kill leaves no torn checkpoint behind
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
    for left in (*output.glob(".checkpoint-*.old"), *output.glob(".checkpoint-*.tmp")):
        shutil.rmtree(left, ignore_errors=True)


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


def _checksum(path: Path) -> str:
    h = blake2b(digest_size=16)
    with path.open("rb") as f:
        while chunk := f.read(2**20):
            h.update(chunk)
    return h.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
