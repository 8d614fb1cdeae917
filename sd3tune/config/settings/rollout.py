"""Scheduled sampling: training on where the model gets to itself. docs/concepts/flow.md"""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Flag, Number, Settings, Whole


class RolloutSettings(Settings):
    """Scheduled sampling: training on where the model gets to itself."""

    scheduled_sampling_max_step_offset: Whole = Field(0, ge=0, le=999)
    """Euler steps of 1/1000 that an image is rolled out over, at most. 0: no scheduled sampling."""
    scheduled_sampling_probability: Number = Field(0.0, ge=0, le=1)
    """Share of the images that are rolled out."""
    scheduled_sampling_ramp_steps: Whole = Field(0, ge=0)
    """Optimizer steps over which that share goes from prob_start to prob_end instead."""
    scheduled_sampling_prob_start: Number = Field(0.0, ge=0, le=1)
    """Share at the beginning of the ramp."""
    scheduled_sampling_prob_end: Number = Field(0.5, ge=0, le=1)
    """Share from the end of the ramp on."""
    scheduled_sampling_ramp_shape: Literal["linear", "cosine"] = "linear"
    """Course of the ramp; `cosine` is gentle at both ends."""
    scheduled_sampling_start_step: Whole = Field(0, ge=0)
    """Optimizer steps to be done before anything is rolled out; the ramp begins here."""
    scheduled_sampling_strategy: Literal["uniform", "biased_early", "biased_late"] = "uniform"
    """How far: all distances alike; `biased_early` short ones more often, `biased_late` long."""
    scheduled_sampling_sampler: Literal["euler", "unipc", "dpm", "rk4"] = "euler"
    """Always `euler`; others are refused with a rollout."""
    scheduled_sampling_order: Whole = Field(1, ge=1)
    """Always 1; others are refused with a rollout."""
    scheduled_sampling_reflexflow: Flag | None = None
    """ReflexFlow's terms for rolled-out images. Left out: on."""
    scheduled_sampling_reflexflow_alpha: Number = Field(1.0, ge=0)
    """Strength of its frequency compensation."""
    scheduled_sampling_reflexflow_beta1: Number = Field(10.0, ge=0)
    """Weight of its anti-drift term."""
    scheduled_sampling_reflexflow_beta2: Number = Field(1.0, ge=0)
    """Weight of the loss of rolled-out images beside it."""
