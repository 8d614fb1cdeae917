"""All that changes during training, and so all that a checkpoint must hold."""

from dataclasses import dataclass
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

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]
