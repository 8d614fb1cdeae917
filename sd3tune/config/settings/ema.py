"""An exponential moving average (EMA) of the trained weights."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Number, Settings, Whole


class EmaSettings(Settings):
    """An exponential moving average (EMA) of the trained weights."""

    use_ema: Flag = False
    """Keep a moving average of the trained weights. The average is the result; the last weights are
    kept in `last/`."""
    ema_decay: Number = Field(0.995, ge=0, lt=1)
    """Share of the old average in the new one, after the first steps."""
    ema_warmup_steps: Whole = Field(0, ge=0)
    """Steps during which the average is a copy of the weights. 0: the decay rises as
    (1 + n) / (10 + n)."""
    ema_update_interval: Count = 1
    """Optimizer steps between updates of the average."""
    ema_device: Literal["cpu", "accelerator"] = "cpu"
    """Where the average is kept."""
    ema_validation: Literal["none", "ema_only", "comparison"] = "comparison"
    """Weights for validation pictures: the last (`none`), the average (`ema_only`), or both."""
