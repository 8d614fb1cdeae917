"""Noise levels and the loss."""

from pydantic import Field

from sd3tune.config.fields import Flag, Number, Settings


class FlowSettings(Settings):
    """Noise levels and the loss."""

    flow_schedule_shift: Number = Field(3.0, gt=0)
    """Moves noise levels toward noise: s' = shift s / (1 + (shift - 1) s). 1 leaves them alone."""
    flow_schedule_auto_shift: Flag = False
    """Shift by image size instead, alike in training, evaluation and validation pictures."""
    flow_use_uniform_schedule: Flag = False
    """Uniform noise levels instead of logit-normal ones."""
    flow_sigmoid_scale: Number = Field(1.0, gt=0)
    """Width of the logit-normal distribution."""
