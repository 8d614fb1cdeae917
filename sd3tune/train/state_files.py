"""TrainState as the tensors and JSON of a checkpoint, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sd3tune.adapters.trained import like, on_cpu, put, whole
from sd3tune.errors import CheckpointError
from sd3tune.formats import manifest
from sd3tune.formats.manifest import AVERAGE, FORMAT, OPTIMIZER, TRAINED
from sd3tune.train import optim_state
from sd3tune.train.state import TrainState

TENSOR = "tensor"  # {"tensor": name} in JSON stands for one
# Of TrainState, as JSON.
NUMBERS = ("step", "position", "noise", "loss_before", "recent_losses", "lowered_until",
           "evaluations")  # fmt: skip
PLAIN = (int, float, str, bytes, type(None))
HEADER_BYTES = 256  # of a safetensors file, for one tensor: its name, dtype, shape and offsets

Files = Mapping[str, Mapping[str, Tensor]]  # file name -> tensors


def collect(state: TrainState, *, keep: bool) -> tuple[Files, dict[str, Any]]:
    """Everything on the CPU: tensors by file, and JSON. Tensors that are there already are not
    copied, so they are written before the next step changes them. keep=False: join the all-gather
    of what is split over processes, and keep nothing."""
    tensors: dict[str, Tensor] = {}
    rest = flatten(state.optimizer.state_dict(), "", tensors, keep)
    files: dict[str, Mapping[str, Tensor]] = {
        TRAINED: on_cpu(state.trained.named(), keep=keep),
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


def restore(state: TrainState, folder: Path, facts: manifest.SavedState) -> None:
    """Puts a checkpoint's tensors and numbers into `state`. Raises whatever a library raises where
    they do not fit."""
    put(state.trained, load_file(folder / TRAINED))
    tensors = load_file(folder / OPTIMIZER)
    optim_state.put(state.optimizer, _placed(unflatten(facts.optimizer, tensors), state))
    state.scaler.load_state_dict(facts.scaler)
    _load_average(state, folder)
    for name in NUMBERS:
        setattr(state, name, getattr(facts, name))


def size_bytes(files: Files, texts: Mapping[str, str]) -> int:
    """Bytes of the files of a checkpoint, without the exported adapter beside them."""
    tensors = [t for file in files.values() for t in file.values()]
    data: int = sum(t.numel() * t.element_size() + HEADER_BYTES for t in tensors)
    return data + sum(len(text) for text in texts.values())  # JSON of ours is ASCII


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


def flatten(value: Any, path: str, tensors: dict[str, Tensor], keep: bool) -> Any:
    """JSON for everything but tensors, which go to `tensors` under their path. Optimizers nest
    freely: bitsandbytes keeps a dict per parameter, optimi a tensor per group."""
    if isinstance(value, PLAIN):  # first, because most values are: the check below is slow
        return value
    if isinstance(value, torch.Tensor):  # gathered before the next one is, for its memory
        value = optim_state.plain(whole(value))
    if isinstance(value, torch.Tensor):
        if keep:
            tensors[path] = value.detach().cpu().contiguous()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): flatten(v, f"{path}/{k}", tensors, keep) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [flatten(v, f"{path}/{i}", tensors, keep) for i, v in enumerate(value)]
    return value


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`: `tensors` in the places that their names stand for."""
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        # JSON made words of the numbers that name parameters.
        return {int(k) if k.isdigit() else k: unflatten(v, tensors) for k, v in value.items()}
    return [unflatten(v, tensors) for v in value] if isinstance(value, list) else value
