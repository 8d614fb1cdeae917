"""Networks whose answers are known, in the place of the transformer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd3tune.adapters.trained import Trained, take
from sd3tune.data.batch import Batch
from sd3tune.train.state import TrainState
from tests.cpu import batches


class Everything(Trained):
    """A field has nothing beside it."""

    @contextmanager
    def off(self) -> Iterator[None]:
        yield

    def values(self, *, keep: bool = True) -> dict[str, Tensor]:
        return take(self, keep=keep)

    def write(self, folder: Path, values: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
        raise NotImplementedError


class Known(nn.Module):
    """Answers gain * field(z, timestep, pooled); `gain` is what trains. Remembers its calls."""

    dtype = torch.float32

    def __init__(self, field: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.field, self.gain = field, nn.Parameter(torch.ones(()))
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        return_dict: bool,
    ) -> tuple[Tensor]:
        grad = torch.is_grad_enabled()
        self.calls.append(
            {"z": hidden_states, "t": timestep, "training": self.training, "grad": grad}
        )
        return (self.gain * self.field(hidden_states, timestep, pooled_projections),)

    @property
    def trained(self) -> Trained:
        return Everything(self)

    def state(self, *, scaled: bool = False) -> TrainState:
        return TrainState(
            self.trained,
            torch.optim.SGD([self.gain], lr=0.1),
            torch.amp.GradScaler("cpu", enabled=scaled),
        )


def batch(*ids: int, size: int = 8, **more: Any) -> Batch:
    """Images that are functions of their ids; `pooled` holds the id."""
    named = torch.tensor([[float(i)] for i in ids])
    return replace(batches.batch(*ids, size=size), pooled=named, **more)


def curved(z: Tensor, t: Tensor, pooled: Tensor) -> Tensor:
    """A field that no straight path follows."""
    bend = torch.tanh(z) * (t / 500).view(-1, 1, 1, 1)
    return bend + 0.1 * pooled.view(-1, 1, 1, 1).to(z)
