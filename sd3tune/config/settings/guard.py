"""What happens when the loss jumps."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Number, Settings


class GuardSettings(Settings):
    """What happens when the loss jumps."""

    loss_spike_action: Literal["none", "skip", "lower", "stop"] = "none"
    """On a loss far above its recent median: `skip` the update, `lower` the learning rate to half
    for 100 steps, or `stop` before the weights are touched."""
    loss_spike_factor: Number = Field(5.0, gt=1)
    """How many times the median of the last 100 losses is far."""
