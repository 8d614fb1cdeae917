"""Validation pictures."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sd3tune.config.fields import Count, Flag, Layers, Number, Settings, Sizes, Whole
from sd3tune.config.names import supported

Sampler = Annotated[
    Literal["euler", "heun", "unipc", "dpm++"],
    BeforeValidator(supported("validation_noise_scheduler")),
]


class ValidationSettings(Settings):
    """Validation pictures."""

    validation_prompt: str | None = None
    """Prompt of one validation picture."""
    validation_prompt_library: Flag = False
    """Draw the built-in prompts too: one picture each of portraits, animals, places, things, hands
    and lettering."""
    validation_disable_unconditional: Flag = False
    """Leave out the picture of the empty prompt, `unconditional`, which is drawn beside all
    others."""
    validation_negative_prompt: str = ""
    """Negative prompt of all validation pictures."""
    validation_resolution: Sizes = ()
    """Sizes as `1024x1024,1280x768`; every prompt is drawn in each. Left out: the resolution."""
    validation_guidance: Number = Field(3.0, ge=0)
    """Strength of classifier-free guidance. SD3 needs a small value."""
    validation_num_inference_steps: Count = 30
    """Sampling steps per picture."""
    validation_noise_scheduler: Sampler = "euler"
    """Sampler of the pictures. `euler` is the schedule that trains; all draw the same picture with
    enough steps."""
    validation_seed: Whole | None = Field(None, ge=0)
    """Seed of the pictures' noise. Picture i of a prompt and size has this seed + i. Left out: the
    run's seed."""
    validation_randomize: Flag = False
    """Draw each validation with other seeds, which follow from the seed of the pictures and the
    step."""
    num_validation_images: Count = 1
    """Pictures per prompt and size."""
    validation_lycoris_strength: Number = Field(1.0, ge=0)
    """Strength of the adapter in the pictures, LoRA or LyCORIS. `adapter_strength` of a prompt in
    user_prompt_library replaces it."""
    validation_image_format: Literal["png", "jpeg", "webp"] = "png"
    """Format of the pictures."""
    validation_image_quality: Whole = Field(90, ge=1, le=100)
    """Quality of JPEG and WebP."""
    validation_multigpu: Literal["batch-parallel", "single-gpu"] = "batch-parallel"
    """With several processes: split the pictures over them, or draw all in the first one."""
    validation_disable: Flag = False
    """Draw no pictures."""
    validation_step_interval: Count | None = None
    """Steps between validations. Left out: none where an interval of epochs is set; otherwise about
    ten validations in a run, fewer where they would take more than a fifth of its time."""
    validation_epoch_interval: Count | None = None
    """Epochs between validations."""
    validate_after_step: Whole = Field(0, ge=0)
    """Steps without validations at the beginning."""
    validate_after_epoch: Whole = Field(0, ge=0)
    """Epochs without validations at the beginning."""
    validation_on_startup: Flag = False
    """Draw pictures before the first step too, and when a run continues."""
    disable_benchmark: Flag = False
    """Leave out the pictures of the base model, which are drawn once, before the first step, and
    shown beside those of the run."""
    validation_guidance_skip_layers: Layers = None
    """Skip-layer guidance for SD3.5 medium: blocks left out of an extra pass, as [7, 8, 9]."""
    validation_guidance_skip_layers_start: Number = Field(0.01, ge=0, le=1)
    """Share of the sampling steps before skip-layer guidance starts."""
    validation_guidance_skip_layers_stop: Number = Field(0.2, ge=0, le=1)
    """Share of the sampling steps after which skip-layer guidance stops."""
    validation_guidance_skip_scale: Number = Field(2.8, ge=0)
    """Strength of skip-layer guidance: how far to move away from the pass without those blocks."""
