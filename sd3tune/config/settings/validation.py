"""Validation pictures."""

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Layers, Number, Settings, Sizes, Whole


class ValidationSettings(Settings):
    """Validation pictures."""

    validation_prompt: str | None = None
    """Prompt of one validation picture."""
    validation_negative_prompt: str = ""
    """Negative prompt of all validation pictures."""
    validation_resolution: Sizes = ()
    """Sizes as `1024x1024,1280x768`; every prompt is drawn in each. Left out: the resolution."""
    validation_guidance: Number = Field(3.0, ge=0)
    """Strength of classifier-free guidance. SD3 needs a small value."""
    validation_num_inference_steps: Count = 30
    """Euler steps per picture."""
    validation_seed: Whole | None = Field(None, ge=0)
    """Seed of the pictures' noise. Left out: the run's seed."""
    num_validation_images: Count = 1
    """Pictures per prompt and size."""
    validation_disable: Flag = False
    """Draw no pictures."""
    validation_step_interval: Count | None = None
    """Steps between validations. Left out: only at the end."""
    validation_guidance_skip_layers: Layers = None
    """Skip-layer guidance for SD3.5 medium: blocks left out of an extra pass, as [7, 8, 9]."""
    validation_guidance_skip_layers_start: Number = Field(0.01, ge=0, le=1)
    """Share of the sampling steps before skip-layer guidance starts."""
    validation_guidance_skip_layers_stop: Number = Field(0.2, ge=0, le=1)
    """Share of the sampling steps after which skip-layer guidance stops."""
    validation_guidance_skip_scale: Number = Field(2.8, ge=0)
    """Strength of skip-layer guidance: how far to move away from the pass without those blocks."""
