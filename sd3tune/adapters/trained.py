"""What a run trains, behind one interface: an adapter beside frozen weights, or all the weights.

lora.py, lycoris.py and full.py each have one implementation. The trainer asks it for parameters by
name, for the model without the adapter, and for files, and never for its kind.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from sd3tune.errors import CheckpointError, PlanError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Trained(ABC):
    """model: the transformer as it is called, with whatever is trained in place."""

    model: Any
    keeps_base: ClassVar[bool] = True  # the model as it was can be asked again
    light: ClassVar[bool] = True  # small enough that checkpoints hold the exported file as well

    def named(self) -> dict[str, nn.Parameter]:
        """What the optimizer moves, by the names checkpoints keep it under; always in one order."""
        free_gathered(self.model)
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    @abstractmethod
    def off(self) -> Iterator[None]:
        """Restores the model as it was before training while the block runs. Raises PlanError where
        its weights are gone."""

    def cast_once(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """The passes of one step, inside, share casts of what trains to the format of products;
        None: there is no autocast."""
        return nullcontext()

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """The adapter at another strength while the block runs; 1 changes nothing. Raises PlanError
        where there is nothing to scale."""
        if strength != 1:
            raise PlanError(
                f"an adapter strength of {strength:g} is for LoRA and LyCORIS", hint="leave it out"
            )
        yield

    @abstractmethod
    def values(self, *, keep: bool = True) -> dict[str, Tensor]:
        """The values for `write`: copies of the present values, as `copies` makes them."""

    def weights_sha256(self) -> str | None:
        """The hash of the present values of an adapter (formats/adapter_hash.py), which its files
        have as well; None where none is defined."""
        return None

    def file_bytes(self, values: Mapping[str, Tensor]) -> int:
        """Bytes of the file that `write` would write, without the names of tensors."""
        return sum(t.nbytes for t in values.values())

    @abstractmethod
    def write(self, folder: Path, values: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
        """Writes the file or folder that other programs load, and returns its
        path. about: facts for the file's
        metadata."""


def free_gathered(model: Any) -> None:
    """Frees what FSDP gathered in a forward pass without a backward pass. With
    fsdp_reshard_after_forward=false it stays: values would be written to it and not to the shards,
    and the next forward pass would use it although the shards have other values."""
    if hasattr(model, "reshard"):  # only what FSDP splits has it
        for module in model.modules():
            if hasattr(module, "reshard"):
                module.reshard()


def take(trained: Trained, *, keep: bool = True) -> dict[str, Tensor]:
    """Everything that is trained, as `copies` makes it."""
    return copies(trained.named(), keep=keep)


def copies(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Copies on the CPU, by name, as `on_cpu` makes them."""
    present = on_cpu(tensors, keep=keep)
    return {
        name: value.clone() if value.data_ptr() == tensors[name].data_ptr() else value
        for name, value in present.items()
    }


def on_cpu(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, by name; what is there already is not copied. Tensors that are
    split over processes are gathered one after the other, which every process takes part in.
    keep=False: join the all-gather but discard the result; only rank 0 keeps a CPU copy, since one
    copy of a model on a machine is enough."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            found[name] = value.detach().cpu().contiguous()
    return found


def put(trained: Trained, state: Mapping[str, Tensor]) -> None:
    """The inverse of `take`, bit for bit. Raises CheckpointError when names or shapes differ."""
    own = trained.named()
    hint = (
        "set the model, model_type, lora_type, lora_rank and the targets as they were, or "
        "resume_from_checkpoint=never"
    )
    if odd := sorted(own.keys() ^ state.keys()):
        raise CheckpointError(
            f"what the checkpoint holds differs from what this configuration trains, at `{odd[0]}` "
            f"and {len(odd) - 1} more tensors",
            hint=hint,
        )
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"`{name}` has another shape in the checkpoint, {tuple(state[name].shape)}, than "
                f"here, {tuple(parameter.shape)}",
                hint=hint,
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(like(state[name], parameter))


def is_split(t: Tensor) -> "TypeGuard[DTensor]":
    """Whether its parts lie on several processes."""
    return hasattr(t, "full_tensor")  # only DTensor has it


def whole(t: Tensor) -> Tensor:
    """The whole tensor, also of a tensor that is split over processes. Every process must call
    this."""
    return (t.full_tensor() if is_split(t) else t).detach()


def like(values: Tensor, parameter: Tensor) -> Tensor:
    """`values`, cut into shards as `parameter` is."""
    if not is_split(parameter):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        values.to(parameter.device), parameter.device_mesh, parameter.placements
    )
