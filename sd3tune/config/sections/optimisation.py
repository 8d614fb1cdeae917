"""How weights follow gradients."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sd3tune.config import checks
from sd3tune.config.fields import Number, Optimizer, Settings, Whole


class OptimisationSettings(Settings):
    """How weights follow gradients."""

    learning_rate: Number = Field(1e-4, gt=0)
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = (
        "constant_with_warmup"
    )
    """Course of the learning rate after warm-up: constant, or falling to lr_end."""
    lr_warmup_steps: Whole = Field(0, ge=0)
    """Steps over which the learning rate rises to its peak."""
    lr_end: Number = Field(0.0, ge=0)
    """Learning rate at the end of `linear` and `cosine`."""
    optimizer: Optimizer | None = None
    """Left out: adamw."""
    optimizer_config: Annotated[str, AfterValidator(checks.options)] = ""
    """Options of the optimizer as `weight_decay=0.01,eps=1e-6`."""
    optimizer_beta1: Number | None = Field(None, ge=0, lt=1)
    """Decay of the first moment."""
    optimizer_beta2: Number | None = Field(None, ge=0, lt=1)
    """Decay of the second moment."""
    max_grad_norm: Number = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it; 0 switches that off."""
