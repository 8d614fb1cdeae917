"""An optimizer's state as plain tensors, numbers, lists and dicts, and back.

torchao keeps its moments in tensor subclasses, which neither safetensors nor `Tensor.clone` on the
way there understand: each is stored as its plain tensors, with the names of its class and context.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sd3tune.adapters.trained import is_split

CLASS = "tensor class"
FUSED = "fused"  # how an optimizer computes here, not what: never taken from a checkpoint
# Moments of one number for each of the parameter (AdEMAMix: two), as torch, optimi and bitsandbytes
# name them. torch itself compares no shapes.
LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "momentum_buffer", "state1", "state2"}
TRUSTED = ("torchao.optim",)  # a checkpoint names a class; only these are made


def kind(optimizer: torch.optim.Optimizer) -> str:
    """ "optimi.AdamW": three libraries have an AdamW, each with another state."""
    return f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"


def put(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raises ValueError, or what the optimizer raises, when `state` is another's."""
    before = [dict(group) for group in optimizer.param_groups]
    whole = _whole(state)
    for own, group in zip(before, whole["param_groups"], strict=False):
        if FUSED in own:
            group[FUSED] = own[FUSED]
    optimizer.load_state_dict(whole)
    for own, group in zip(before, optimizer.param_groups, strict=True):
        _take_options(own, group)
    for parameter, moments in optimizer.state.items():
        for name in LIKE_PARAMETER & moments.keys():
            shape, own_shape = getattr(moments[name], "shape", None), parameter.shape
            if shape is not None and shape[-len(own_shape) :] != own_shape:
                raise ValueError(
                    f"the optimizer's `{name}` has shape {tuple(shape)} for a parameter of "
                    f"{tuple(own_shape)}"
                )


def _take_options(own: Mapping[str, Any], group: dict[str, Any]) -> None:
    """torch takes any group. An option that is newer than the checkpoint keeps its value; a word
    for a number would end the first step."""
    for name, value in own.items():
        group.setdefault(name, value)
        if _is_number(value) and not _is_number(group[name]):
            raise ValueError(f"the optimizer's `{name}` is {group[name]!r:.40}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | torch.Tensor) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Tensor subclasses as the tensors they are made of, at any depth."""
    wrapped = isinstance(value, torch.Tensor) and is_traceable_wrapper_subclass(value)
    if wrapped and not is_split(value):
        names, context = value.__tensor_flatten__()
        return {
            CLASS: f"{type(value).__module__}:{type(value).__name__}",
            "parts": {name: getattr(value, name) for name in names},
            "context": [str(c) if isinstance(c, torch.dtype) else c for c in context],
        }
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        if CLASS in value:
            return _tensor(value)
        return {k: _whole(v) for k, v in value.items()}
    return [_whole(v) for v in value] if isinstance(value, list) else value


def _tensor(value: Mapping[str, Any]) -> Any:
    from importlib import import_module

    module, name = value[CLASS].split(":")
    if not module.startswith(TRUSTED):
        raise ValueError(f"{module} is not a library of optimizer states")
    kind = getattr(import_module(module), name)
    context = [_dtype(c) if isinstance(c, str) else c for c in value["context"]]
    return kind.__tensor_unflatten__(value["parts"], context)


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return dtype
