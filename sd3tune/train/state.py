"""All that changes during training, and so all that a checkpoint must hold."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sd3tune.adapters.trained import Trained
from sd3tune.formats.manifest import Lineage
from sd3tune.train.ema import Ema


@dataclass
class TrainState:
    """Data order, noise and learning rate follow from `step` and `position`."""

    trained: Trained  # the transformer and what of it moves
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    step: int = 0  # finished optimizer steps
    position: int = 0  # batches drawn since the run began, by all of its processes together
    noise: int = 0  # digest of every noise drawn so far
    loss_before: float | None = None  # of the untrained model on the evaluation batches
    recent_losses: list[float] = field(default_factory=list)  # what a spike is measured against
    # Step and loss of each evaluation after training began; formats/evaluation_history.py
    evaluations: list[list[float]] = field(default_factory=list)
    lowered_until: int = 0  # step up to which a spike has lowered the learning rate
    lineage: Lineage = field(default_factory=Lineage)  # which run this is
    updating: bool = False  # the values are between two steps' just now; in no checkpoint

    @property
    def model(self) -> Any:
        """The transformer as it is called."""
        return self.trained.model

    @cached_property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves, always in one order."""
        return list(self.trained.named().values())
