"""All that changes during training, and so all that a checkpoint must hold."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class TrainState:
    """`step` counts finished optimizer steps; data order, noise and learning rate follow."""

    model: Any  # SD3Transformer2DModel with its adapter
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    recent_losses: list[float] = field(default_factory=list)  # what a spike is measured against
    lowered_until: int = 0  # step up to which a spike has lowered the learning rate

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]
