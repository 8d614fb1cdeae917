"""What happens when the loss rises suddenly."""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Number, Settings


class GuardSettings(Settings):
    """What happens when the loss rises suddenly."""

    loss_spike_action: Literal["none", "skip", "lower", "stop"] = "none"
    """On a loss far above its recent median: `skip` the update, `lower` the learning rate to half
    for 100 steps, or `stop` before the weights are touched."""
    loss_spike_factor: Number = Field(5.0, gt=1)
    """A loss is a spike when it is so many times the median of the last 100."""
