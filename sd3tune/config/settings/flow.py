"""Noise levels and the loss. Equations: docs/concepts/flow.md"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Flag, Number, OneOf, Settings, Whole
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.loss_weightings import LOSS_WEIGHTINGS


class FlowSettings(Settings):
    """Noise levels and the loss."""

    flow_schedule_shift: Annotated[Number, AfterValidator(lambda v: v or 1.0)] = Field(3.0, ge=0)
    """Shifts noise levels s toward noise: s' = shift s / (1 + (shift - 1) s). 1, or 0, is no
    shift."""
    flow_schedule_auto_shift: Flag = False
    """Compute the shift from the image size, the same in training and in validation pictures."""
    flow_use_uniform_schedule: Flag = False
    """Uniform noise levels instead of logit-normal ones."""
    flow_use_beta_schedule: Flag = False
    """Noise levels from a Beta distribution instead."""
    flow_beta_schedule_alpha: Number = Field(2.0, gt=0)
    """Alpha of the Beta distribution; larger means more noise."""
    flow_beta_schedule_beta: Number = Field(2.0, gt=0)
    """Beta of the Beta distribution; larger means less noise."""
    flow_cubic_schedule_weights: Annotated[tuple[float, ...], BeforeValidator(values.weights)] = ()
    """Weights as [1, 3, 2]: how often levels of the first, second and last third are drawn,
    smoothed by a monotone cubic."""
    flow_custom_timesteps: Annotated[tuple[float, ...], BeforeValidator(values.timesteps)] = ()
    """The only timesteps to train on, as [250, 500, 750], or as noise levels up to 1. They are not
    shifted."""
    flow_timesteps_mode: Literal["fixed-list", "round-robin"] = "fixed-list"
    """`fixed-list` draws from flow_custom_timesteps; `round-robin` takes the next one each step."""
    flow_sigmoid_scale: Number = Field(1.0, gt=0)
    """Width of the logit-normal distribution."""
    loss_type: Annotated[str, OneOf(LOSS_TYPES, explained=True)] = "l2"
    """How the error of each latent is counted."""
    loss_weighting: Annotated[str, OneOf(LOSS_WEIGHTINGS, explained=True)] = "none"
    """How much a noise level counts. `config import` sets it for trainers that weigh them."""
    huber_c: Number = Field(0.1, gt=0)
    """Where `huber` and `smooth_l1` turn from square to straight."""
    huber_schedule: Literal["snr", "exponential", "constant"] = "snr"
    """`constant`: huber_c. `exponential`: from 1 without noise to huber_c in noise. `snr`: from
    huber_c without noise to 1 in noise."""
    masked_loss_normalize: Flag = False
    """Divide a masked loss by the mask's sum, so that images with little mask count like others."""
    input_perturbation: Number = Field(0.0, ge=0)
    """Extra noise in the input that is not part of the target, as a share of the noise. The paper
    (arXiv:2301.11706) uses 0.1."""
    input_perturbation_steps: Whole = Field(0, ge=0)
    """Steps over which input_perturbation falls to 0. 0: it stays."""
