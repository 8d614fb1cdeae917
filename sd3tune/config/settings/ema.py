"""A moving average of what is trained."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Number, Settings, Whole


class EmaSettings(Settings):
    """A moving average of what is trained."""

    use_ema: Flag = False
    """Keep a moving average; it becomes the result, the last values are kept beside it."""
    ema_decay: Number = Field(0.995, ge=0, lt=1)
    """Share of the average that a step leaves as it was, once there are enough steps."""
    ema_warmup_steps: Whole = Field(0, ge=0)
    """Steps in which the average is a copy. 0: the decay rises as (1 + n) / (10 + n)."""
    ema_update_interval: Count = 1
    """Steps between updates."""
    ema_device: Literal["cpu", "accelerator"] = "cpu"
    """Where the average is kept."""
    ema_validation: Literal["none", "ema_only", "comparison"] = "comparison"
    """Weights that pictures are drawn with: the last, the average, or both."""
