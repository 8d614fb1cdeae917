"""Settings of validation pictures that were set and change nothing."""

from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures

PICTURES = (
    Idle(
        "user_prompt_library validation_prompt validation_prompt_library",
        "validation_disable",
        lambda c: c.validation_disable,
        "validation_disable is true",
        "leave it out, or leave out validation_disable",
    ),
    Idle(
        "validation_negative_prompt validation_resolution validation_guidance "
        "validation_num_inference_steps validation_noise_scheduler validation_seed "
        "validation_randomize num_validation_images validation_lycoris_strength "
        "validation_image_format "
        "validation_step_interval validation_epoch_interval validate_after_step "
        "validate_after_epoch validation_on_startup disable_benchmark "
        "validation_disable_unconditional validation_guidance_skip_layers",
        PICTURES_ARE_DRAWN_BY,
        no_pictures,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "ema_validation",
        PICTURES_ARE_DRAWN_BY,
        lambda c: no_pictures(c) if c.use_ema else None,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "validation_guidance_skip_layers_start validation_guidance_skip_layers_stop "
        "validation_guidance_skip_scale",
        "validation_guidance_skip_layers",
        lambda c: not c.validation_guidance_skip_layers,
        "validation_guidance_skip_layers is not set",
        "leave it out, or set validation_guidance_skip_layers=[7, 8, 9]",
    ),
    Idle(
        "validation_image_quality",
        "validation_image_format",
        lambda c: c.validation_image_format == "png",
        "PNG loses nothing",
        "leave it out, or set validation_image_format to jpeg or webp",
    ),
    Idle(
        "validation_multigpu",
        "fsdp_enable",
        lambda c: c.fsdp_enable,
        "fsdp_enable splits the weights: all processes draw each picture together",
        "leave it out",
    ),
    Idle(
        "validation_lycoris_strength",
        "model_type",
        lambda c: c.model_type == "full" and not no_pictures(c),
        "model_type=full has no adapter",
        "leave it out",
    ),
    Idle(
        "validation_negative_prompt",
        "validation_guidance",
        lambda c: c.validation_guidance <= 1 and not no_pictures(c),
        "validation_guidance={c.validation_guidance:g} does not look at it",
        "leave it out, or set validation_guidance above 1",
    ),
)
