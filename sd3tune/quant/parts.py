"""The plain tensors inside a quantised weight, to count them or to move them one by one.

Nothing is repacked on the way: the same bytes arrive.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

Move = Callable[[Tensor], Tensor]


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that hold `tensor`: itself, or codes, scales and shifts."""

    def seen(part: Tensor) -> Tensor:
        found.append(part)
        return part

    found: list[Tensor] = []
    moved(tensor, seen)
    yield from found


def stored_bytes(module: Any) -> int:
    """Bytes of a module's parameters and buffers as they lie in memory, shared ones once."""
    tensors = [*module.parameters(), *module.buffers()]
    found = {id(part): part for tensor in tensors for part in parts(tensor)}
    return sum(part.numel() * part.element_size() for part in found.values())


def moved(tensor: Tensor, move: Move) -> Tensor:
    """`tensor` rebuilt from `move` of each of its parts. The original stays as it is."""
    if is_traceable_wrapper_subclass(tensor):  # quanto
        names, meta = tensor.__tensor_flatten__()
        inner = {name: moved(getattr(tensor, name), move) for name in names}
        kind: Any = type(tensor)
        rebuilt: Tensor = kind.__tensor_unflatten__(inner, meta, tensor.size(), tensor.stride())
        return rebuilt
    if is_nf4(tensor):
        return _moved_nf4(tensor, move)
    return move(tensor.detach())


def is_nf4(tensor: Any) -> bool:
    """By name: importing bitsandbytes takes seconds, and may not be possible."""
    return type(tensor).__name__ == "Params4bit" and tensor.quant_state is not None


def _moved_nf4(tensor: Any, move: Move) -> Tensor:
    state = moved_state(tensor.quant_state, move)
    rebuilt: Tensor = type(tensor)(
        move(tensor.data),
        quant_state=state,
        blocksize=tensor.blocksize,
        compress_statistics=tensor.compress_statistics,
        quant_type=tensor.quant_type,
        quant_storage=tensor.quant_storage,
        bnb_quantized=True,
    )
    return rebuilt


def moved_state(state: Any, move: Move) -> Any:
    """bitsandbytes' QuantState with its tensors moved: a copy, since its own `to` moves in place,
    also for other tensors that share it."""
    made = copy.copy(state)
    for name in ("absmax", "code", "offset"):
        if isinstance(value := getattr(state, name), torch.Tensor):
            setattr(made, name, move(value))
    if state.nested:
        made.state2 = moved_state(state.state2, move)
    return made
