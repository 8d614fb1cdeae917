"""A checkpoint is a folder that is either whole or not there.

Written under a temporary name, synced to disk, described by a manifest of checksums, then renamed.
Safetensors and JSON only: opening somebody's checkpoint runs no code. It holds exactly TrainState,
and for people the plan's decisions and the adapter as other programs load it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd3tune.adapters import lora
from sd3tune.errors import CheckpointError
from sd3tune.train.state import TrainState

FORMAT = 1
MANIFEST = "manifest.json"
TENSOR = "tensor"  # {"tensor": name} in JSON stands for one


def save(state: TrainState, output: Path, described: Mapping[str, Any]) -> Path:
    """Writes `output/checkpoint-<step>` and returns it. described: what `sd3tune plan --json`
    printed, for people."""
    final = output / f"checkpoint-{state.step}"
    draft = output / f".{final.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write(state, draft, described)
    except OSError as e:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"cannot write `{final}`: {e.strerror or e}",
            hint="free some space or choose another output_dir; earlier checkpoints are whole",
        ) from e
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    _sync(output)
    return final


def _write(state: TrainState, folder: Path, described: Mapping[str, Any]) -> None:
    save_file(lora.take(state.model), folder / "adapter.safetensors")
    lora.export(state.model, folder)
    tensors: dict[str, Tensor] = {}
    rest = _flatten(state.optimizer.state_dict(), "", tensors)
    save_file(tensors, folder / "optimizer.safetensors")
    facts = {
        "format": FORMAT,
        "step": state.step,
        "recent_losses": state.recent_losses,
        "lowered_until": state.lowered_until,
        "scaler": state.scaler.state_dict(),
        "optimizer": rest,
        "optimizer_class": type(state.optimizer).__name__,
    }
    (folder / "state.json").write_text(json.dumps(facts, indent=1))
    (folder / "plan.json").write_text(json.dumps(described, indent=1))
    files = sorted(p for p in folder.iterdir() if p.is_file())
    manifest = {p.name: _checksum(p) for p in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (*files, folder / MANIFEST):
        _sync(path)
    _sync(folder)


def load(state: TrainState, folder: Path) -> None:
    """Puts a checkpoint into `state`. Raises CheckpointError when it is torn or of another run."""
    if (why := damage(folder)) is not None:
        raise CheckpointError(
            f"`{folder}` cannot be resumed: {why}",
            hint="resume_from_checkpoint=latest takes the newest whole one, never starts afresh",
        )
    facts = json.loads((folder / "state.json").read_text())
    if facts["optimizer_class"] != type(state.optimizer).__name__:
        raise CheckpointError(
            f"`{folder}` was written by {facts['optimizer_class']}, this run uses "
            f"{type(state.optimizer).__name__}",
            hint="set optimizer as it was, or resume_from_checkpoint=never",
        )
    lora.put(state.model, load_file(folder / "adapter.safetensors"))
    tensors = load_file(folder / "optimizer.safetensors")
    state.optimizer.load_state_dict(_unflatten(facts["optimizer"], tensors))
    state.scaler.load_state_dict(facts["scaler"])
    state.step = facts["step"]
    state.recent_losses = facts.get("recent_losses", [])  # absent before spikes were watched
    state.lowered_until = facts.get("lowered_until", 0)


def latest(output: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The whole checkpoint of the highest step, and a sentence for each one passed over."""
    passed: list[str] = []
    found = [p for p in output.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for folder in sorted(found, key=lambda p: -int(p.name.removeprefix("checkpoint-"))):
        if (why := damage(folder)) is None:
            return folder, tuple(passed)
        passed.append(f"`{folder}` is passed over: {why}")
    return None, tuple(passed)


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


def prune(output: Path, keep: int) -> None:
    """Removes the oldest whole checkpoints beyond `keep`."""
    found = [p for p in output.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    found.sort(key=lambda p: int(p.name.removeprefix("checkpoint-")))
    for folder in found[: max(0, len(found) - keep)]:
        shutil.rmtree(folder)


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for everything but tensors, which go to `tensors` under their path. Optimizers nest
    freely: bitsandbytes keeps a dict per parameter, optimi a tensor per group."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): _flatten(v, f"{path}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_flatten(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
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
