"""Scheduled sampling: training on latents that the model itself has denoised.

Equations: docs/concepts/flow.md
"""

from typing import Literal

from pydantic import Field

from sd3tune.config.fields import Flag, Number, Settings, Whole


class RolloutSettings(Settings):
    """Scheduled sampling: training on latents that the model itself has denoised."""

    scheduled_sampling_max_step_offset: Whole = Field(0, ge=0, le=999)
    """Largest number of Euler steps of 1/1000 that an image is rolled out. 0: no scheduled
    sampling."""
    scheduled_sampling_probability: Number = Field(0.0, ge=0, le=1)
    """Share of the images that are rolled out."""
    scheduled_sampling_ramp_steps: Whole = Field(0, ge=0)
    """Optimizer steps over which that share goes from prob_start to prob_end instead."""
    scheduled_sampling_prob_start: Number = Field(0.0, ge=0, le=1)
    """Share of rolled-out images at the beginning of the ramp."""
    scheduled_sampling_prob_end: Number = Field(0.5, ge=0, le=1)
    """Share of rolled-out images from the end of the ramp on."""
    scheduled_sampling_ramp_shape: Literal["linear", "cosine"] = "linear"
    """Course of the ramp; `cosine` changes slowly at both ends."""
    scheduled_sampling_start_step: Whole = Field(0, ge=0)
    """Optimizer steps before the first rollout; the ramp begins here."""
    scheduled_sampling_strategy: Literal["uniform", "biased_early", "biased_late"] = "uniform"
    """How far images are rolled out: `uniform` all distances equally often, `biased_early` short
    ones more often, `biased_late` long ones."""
    scheduled_sampling_sampler: Literal["euler", "unipc", "dpm", "rk4"] = "euler"
    """Always `euler`; a rollout with another is an error."""
    scheduled_sampling_order: Whole = Field(1, ge=1)
    """Always 1; a rollout with another is an error."""
    scheduled_sampling_reflexflow: Flag | None = None
    """ReflexFlow's loss terms for rolled-out images. Left out: on."""
    scheduled_sampling_reflexflow_alpha: Number = Field(1.0, ge=0)
    """Strength of ReflexFlow's frequency compensation."""
    scheduled_sampling_reflexflow_beta1: Number = Field(10.0, ge=0)
    """Weight of ReflexFlow's anti-drift term."""
    scheduled_sampling_reflexflow_beta2: Number = Field(1.0, ge=0)
    """Weight of the ordinary loss of rolled-out images beside the anti-drift term."""
