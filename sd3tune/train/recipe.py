"""The constants of every training step, taken from the plan."""

from dataclasses import dataclass

import torch

from sd3tune.plan.objective import LossPlan
from sd3tune.plan.plan import Plan
from sd3tune.sd3.weights import DTYPES


@dataclass(frozen=True)
class Recipe:
    """What `train_step` and `losses` take from the plan."""

    seed: int
    loss: LossPlan
    autocast: torch.dtype | None
    attention: str
    max_grad_norm: float  # 0: no clipping
    clip_method: str = "norm"
    images_per_pass: int = 0  # larger batches are computed in parts; 0: whatever their size

    @classmethod
    def of(cls, plan: Plan) -> "Recipe":
        """The recipe of a plan."""
        dtype = plan.precision.autocast.value
        return cls(
            seed=plan.seed,
            loss=plan.loss,
            autocast=None if dtype is None else DTYPES[dtype],
            attention=plan.attention.training.value,
            max_grad_norm=plan.optimizer.max_grad_norm,
            clip_method=plan.optimizer.clip_method,
            images_per_pass=plan.memory.load.batch,
        )
