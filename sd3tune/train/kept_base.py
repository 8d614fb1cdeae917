"""The base model between two runs of a queue that train on the same one.

What is kept is the frozen model as it was loaded, on its device. Each run gets a copy of its
modules that shares the weights: what a run does to the modules (adapter, attention, checkpointing)
is gone with the copy, and nobody writes to frozen weights.
"""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sd3tune import load
from sd3tune.encode.fill import free
from sd3tune.plan.plan import Plan
from sd3tune.plan.shared_base import BaseKey, base_key
from sd3tune.report.progress import say


class KeptBase:
    """Loads base models for runs in their order; keeps one as long as a later run needs it.

    coming: the keys of all runs.
    """

    def __init__(self, coming: Iterable[BaseKey | None]) -> None:
        self._coming = Counter(key for key in coming if key is not None)
        self._key: BaseKey | None = None
        self._model: Any = None

    def transformer(self, plan: Plan, device: torch.device) -> Any:
        """As `load.transformer`. Raises ModelError."""
        key = base_key(plan)
        if key is not None and key == self._key:
            say(f"kept     transformer of {plan.model.name}, from the run before")
            return sharing_weights(self._model)
        self.drop()
        model = load.transformer(plan, device)
        if key is None or self._coming[key] < 2:
            return model
        self._key, self._model = key, model.to(device)
        return sharing_weights(self._model)

    def ended(self, key: BaseKey | None) -> None:
        """A run with this key is over: drops the model after the last one."""
        if key is not None:
            self._coming[key] -= 1
            if key == self._key and self._coming[key] == 0:
                self.drop()
        free()

    def drop(self) -> None:
        """Frees the memory of the kept model."""
        if self._model is not None:
            self._key, self._model = None, None
            free()


def sharing_weights(model: nn.Module) -> Any:
    """A copy of all modules whose parameters and buffers are those of `model`."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
