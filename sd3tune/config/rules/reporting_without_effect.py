"""Settings of pictures, evaluation, trackers, webhooks and the hub that change nothing."""

from sd3tune.config.rules.contradictions import no_evaluation
from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures
from sd3tune.config.settings.all_settings import AllSettings


def _names_repository(c: AllSettings) -> bool:
    """Whether the hub's repository is called as the trackers' project."""
    return bool(c.push_to_hub) and c.hub_model_id is None


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
PUBLISHING = (
    Idle(
        "push_checkpoints_to_hub model_card_private",
        "push_to_hub",
        lambda c: not c.push_to_hub,
        "push_to_hub is false",
        "leave it out, or set push_to_hub",
    ),
    Idle(
        "push_to_hub_background",
        "push_to_hub push_checkpoints_to_hub",
        lambda c: not (c.push_to_hub and c.push_checkpoints_to_hub),
        "no checkpoint is uploaded",
        "leave it out, or set push_to_hub and push_checkpoints_to_hub",
    ),
)
WATCHED = (
    Idle(
        "validation_preview",
        PICTURES_ARE_DRAWN_BY,
        no_pictures,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "validation_preview_steps",
        "validation_preview",
        lambda c: not c.validation_preview,
        "validation_preview is false",
        "leave it out, or set validation_preview=true",
    ),
    Idle(
        "webhook_reporting_interval",
        "webhook_config",
        lambda c: not any(w.takes_progress for w in c.webhook_config),
        "no webhook takes progress: webhook_type=raw does",
        "leave it out, or add such a webhook to webhook_config",
    ),
)
EVALUATION = (
    Idle(
        "eval_steps_interval eval_epoch_interval",
        "eval_loss_disable",
        lambda c: c.eval_loss_disable,
        "eval_loss_disable is true",
        "leave out one of them",
    ),
    Idle(
        "num_eval_images eval_timesteps eval_dataset_id eval_dataset_pooling",
        "eval_steps_interval eval_epoch_interval eval_loss_disable",
        no_evaluation,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "pretrained_evaluation_model_name_or_path",
        "evaluation_type",
        lambda c: c.evaluation_type == "none",
        "evaluation_type is none",
        "leave it out, or set evaluation_type=clip",
    ),
    Idle(
        "evaluation_type",
        PICTURES_ARE_DRAWN_BY,
        no_pictures,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
)
TRACKERS = (
    Idle(
        "tracker_run_name tracker_image_layout logging_dir",
        "report_to",
        lambda c: not c.report_to,
        "report_to is none",
        "leave it out, or set report_to",
    ),
    Idle(
        "tracker_image_layout",
        f"report_to {PICTURES_ARE_DRAWN_BY}",
        lambda c: no_pictures(c) if c.report_to else None,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "tracker_project_name",
        "report_to push_to_hub hub_model_id",
        lambda c: not c.report_to and not _names_repository(c),
        "report_to is none",
        "leave it out, or set report_to",
    ),
    Idle(
        "tracker_project_name",
        "report_to push_to_hub hub_model_id",
        lambda c: c.report_to == ("tensorboard",) and not _names_repository(c),
        "tensorboard has no projects",
        "leave it out, or set logging_dir",
    ),
    Idle(
        "logging_dir",
        "report_to",
        lambda c: c.report_to == ("trackio",),
        "trackio keeps its data in TRACKIO_DIR",
        "leave it out",
    ),
)
REPORTING = (*WATCHED, *EVALUATION, *TRACKERS, *PUBLISHING)
