"""The optimizer and its learning rate."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Count, Flag, Number, OneOf, Optimizer, Settings, Whole
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS


class OptimisationSettings(Settings):
    """The optimizer and its learning rate."""

    learning_rate: Number = Field(1e-4, gt=0)
    """Peak learning rate."""
    lr_scale: Flag = False
    """Multiply learning_rate by the images of a step: batch x accumulation x processes."""
    lr_scale_sqrt: Flag = False
    """With lr_scale: multiply by the square root of the number of images instead."""
    lr_scheduler: Annotated[str, OneOf(LR_SCHEDULERS, explained=True)] = "constant_with_warmup"
    """Course of the learning rate after warm-up."""
    lr_warmup_steps: Whole = Field(0, ge=0)
    """Steps over which the learning rate rises to its peak."""
    lr_end: Number = Field(0.0, ge=0)
    """Learning rate at the end of every schedule that falls."""
    lr_power: Number = Field(0.8, gt=0)
    """Exponent of `polynomial`: 1 is linear; above 1 the rate falls early, below 1 late."""
    lr_num_cycles: Count = 1
    """Half waves of `cosine_with_restarts`; each begins at the peak again."""
    optimizer: Optimizer | None = None
    """Explained in docs/concepts/optimisation.md. Left out: adamw."""
    optimizer_config: Annotated[str, AfterValidator(values.options)] = ""
    """Options of the optimizer as `weight_decay=0.01,eps=1e-6`."""
    optimizer_beta1: Number | None = Field(None, ge=0, lt=1)
    """Decay of the first moment. Left out: the optimizer's own."""
    optimizer_beta2: Number | None = Field(None, ge=0, lt=1)
    """Decay of the second moment. Left out: the optimizer's own."""
    prodigy_steps: Count | None = None
    """Steps after which `prodigy` stops estimating its step size. Left out: it never stops."""
    max_grad_norm: Number = Field(1.0, ge=0)
    """A gradient with a larger norm is scaled down to this norm. 0 switches clipping off."""
    grad_clip_method: Literal["norm", "value"] = "norm"
    """`norm`: scale the gradient, which keeps its direction. `value`: clip each of its numbers at
    max_grad_norm, which does not."""
    gradient_precision: Literal["unmodified", "fp32"] = "unmodified"
    """`fp32`: accumulate the gradients of bf16 weights (adamw_bf16) in float32. Those of float32
    weights always are."""
