"""A moving average of the trained values, by diffusers' EMAModel.

Its decay is min((1 + n) / (10 + n), ema_decay) with n = step - 1, so that the average forgets its
beginning; with ema_warmup_steps the weights are copied so long, and then averaged at ema_decay.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained, like, on_cpu


@dataclass(frozen=True)
class Ema:
    """Kept in float32: bf16 would lose steps of (1 - decay)."""

    average: Any  # EMAModel
    trained: Trained
    interval: int = 1

    @classmethod
    def of(
        cls, trained: Trained, *, decay: float, warmup: int, interval: int, device: str
    ) -> "Ema":
        """device: `cpu`, or `accelerator`: where what is trained lies."""
        from diffusers.training_utils import EMAModel

        average = EMAModel(
            trained.named().values(),
            decay=decay,
            min_decay=decay if warmup else 0.0,
            update_after_step=warmup,
        )
        average.to(dtype=torch.float32, device="cpu" if device == "cpu" else None)
        return cls(average, trained, interval)

    def update(self, step: int) -> None:
        """Updates the average after optimizer step number `step`."""
        if step % self.interval:
            return
        device = self.average.shadow_params[0].device
        self.average.optimization_step = step - 1
        self.average.step([p.to(device) for p in self.trained.named().values()])

    @property
    def decay(self) -> float | None:
        """The decay of the last update."""
        value: float | None = self.average.cur_decay_value
        return value

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Puts the averages into the model while the block runs."""
        parameters = list(self.trained.named().values())
        present = [p.detach().clone() for p in parameters]
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, present, strict=True):
                    p.copy_(value)

    def take(self, *, keep: bool = True) -> dict[str, Tensor]:
        """The averages by the names of the trained values, as `on_cpu` makes them."""
        names, values = self.trained.named(), self.average.shadow_params
        return on_cpu(dict(zip(names, values, strict=True)), keep=keep)

    def put(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `take`."""
        for name, shadow in zip(self.trained.named(), self.average.shadow_params, strict=True):
            shadow.copy_(like(state[name], shadow))
