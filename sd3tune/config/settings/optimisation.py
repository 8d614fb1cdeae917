"""How weights follow gradients."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, Number, OneOf, Optimizer, Settings, Whole
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS


class OptimisationSettings(Settings):
    """How weights follow gradients."""

    learning_rate: Number = Field(1e-4, gt=0)
    """Peak learning rate."""
    lr_scale: Flag = False
    """Multiply learning_rate by the images of a step: batch x accumulation x processes."""
    lr_scale_sqrt: Flag = False
    """With lr_scale: multiply by the square root of that instead."""
    lr_scheduler: Annotated[str, OneOf(LR_SCHEDULERS, explained=True)] = "constant_with_warmup"
    """Course of the learning rate after warm-up."""
    lr_warmup_steps: Whole = Field(0, ge=0)
    """Steps over which the learning rate rises to its peak."""
    lr_end: Number = Field(0.0, ge=0)
    """Learning rate at the end of every schedule that falls."""
    lr_power: Number = Field(0.8, gt=0)
    """Exponent of `polynomial`: 1 is linear, above falls early, below falls late."""
    lr_num_cycles: Count = 1
    """Half waves of `cosine_with_restarts`: it jumps back to the peak between them."""
    optimizer: Optimizer | None = None
    """Explained in docs/concepts/optimisation.md. Left out: adamw."""
    optimizer_config: Annotated[str, AfterValidator(values.options)] = ""
    """Options of the optimizer as `weight_decay=0.01,eps=1e-6`."""
    optimizer_beta1: Number | None = Field(None, ge=0, lt=1)
    """Decay of the first moment. Left out: the optimizer's own."""
    optimizer_beta2: Number | None = Field(None, ge=0, lt=1)
    """Decay of the second moment. Left out: the optimizer's own."""
    prodigy_steps: Count | None = None
    """Steps after which `prodigy` keeps the step size it found. Left out: it goes on looking."""
    max_grad_norm: Number = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it; 0 switches that off."""
    grad_clip_method: Literal["norm", "value"] = "norm"
    """`value`: cut each number of the gradient at max_grad_norm, which turns its direction."""
    gradient_precision: Literal["unmodified", "fp32"] = "unmodified"
    """`fp32`: bf16 weights (adamw_bf16) add up gradients in float32, as float32 ones always do."""
