"""Settings of the vocabulary that sd3tune knows and does not take, each with the reason.

A known name is refused by name; a typo gets a suggestion. A known name whose value asks for nothing
(false, 0, null, "none", "") is let through, so that existing files keep working.
"""

from typing import Any

LATER = "is not supported yet"
NO_EFFECT = "has no effect on flow matching"
OTHER = "belongs to another model family"
DEEPSPEED = "is used with DeepSpeed only"

_NAMES = {
    LATER: """
        accelerate_config accelerate_extra_args accelerator_cache_clear_interval
        allow_dataset_oversubscription cache_dir cache_dir_text cache_dir_vae
        checkpoint_epoch_interval checkpointing_rolling_steps checkpoints_rolling_total_limit
        clip_score compress_disk_cache crop crop_aspect crop_aspect_buckets crop_style
        custom_tracker dataset_type delete_model_after_load delete_problematic_images
        delete_unwanted_images disable_bucket_pruning disable_tf32 disk_low_action disk_low_script
        disk_low_threshold dynamo_dynamic dynamo_fullgraph dynamo_mode
        dynamo_use_regional_compilation ema_cpu_only ema_decay ema_device ema_foreach_disable
        ema_update_interval ema_validation eval_dataset_id eval_steps_interval eval_timesteps
        evaluation_type find_unused_parameters flow_beta_schedule_alpha flow_beta_schedule_beta
        flow_cubic_schedule_weights flow_custom_timesteps flow_timesteps_mode
        flow_use_beta_schedule fuse_optimizer gradient_checkpointing_backend
        gradient_checkpointing_interval gradient_checkpointing_offload_attention
        gradient_checkpointing_segment_stride gradient_precision grad_clip_method hub_model_id
        huber_c huber_schedule ignore_missing_files image_processing_batch_size init_lora
        input_perturbation input_perturbation_steps keep_vae_loaded logging_dir lora_format
        lora_init_type loss_type lr_num_cycles lr_power lr_scale lr_scale_sqrt lycoris_config
        main_process_ip main_process_port masked_loss_probability max_upscale_threshold
        metadata_update_interval model_card_note model_card_private model_card_safe_for_work
        num_eval_images num_machines num_processes offload_during_save offload_during_startup
        optimizer_offload_gradients optimizer_release_gradients post_checkpoint_script
        post_upload_script preserve_data_backend_cache pretrained_t5_model_name_or_path
        pretrained_transformer_model_name_or_path pretrained_transformer_subfolder
        publishing_config push_checkpoints_to_hub push_to_hub push_to_hub_background
        quantization_config quantize_activations quantize_via report_to
        scheduled_sampling_max_step_offset scheduled_sampling_probability
        scheduled_sampling_reflexflow strict_epoch_limit text_cache_disable text_cache_ondemand
        text_embed_full_cache tracker_image_layout tracker_project_name tracker_run_name
        trust_remote_code use_dora use_ema validate_after_epoch validate_after_step
        validation_adapter_path validation_benchmark validation_disable_unconditional
        validation_epoch_interval validation_external_script validation_image_format
        validation_lycoris_strength validation_multigpu validation_noise_scheduler
        validation_on_startup validation_preview validation_preview_steps
        validation_prompt_library validation_randomize validation_seed_source
        validation_using_datasets vae_cache_disable vae_cache_ondemand vae_enable_patch_conv
        vae_enable_slicing vae_enable_tiling webhook_config webhook_reporting_interval
        disable_benchmark torch_num_threads max_workers read_batch_size write_batch_size
        aspect_bucket_worker_count peft_lora_mode freeze_encoder train_text_encoder
        text_encoder_lr i_know_what_i_am_doing allow_tf32
        """,
    NO_EFFECT: """
        disable_segmented_timestep_sampling noise_offset noise_offset_probability offset_noise
        prediction_type rescale_betas_zero_snr snr_gamma timestep_bias_begin timestep_bias_end
        timestep_bias_multiplier timestep_bias_portion timestep_bias_strategy
        training_scheduler_timestep_spacing inference_scheduler_timestep_spacing
        validation_guidance_real validation_guidance_rescale validation_no_cfg_until_timestep
        """,
    OTHER: """
        controlnet framerate fused_qkv_projections pretrained_vae_model_name_or_path
        text_encoder_4_precision video_size enable_watermark
        """,
    DEEPSPEED: "adam_beta1 adam_beta2 adam_epsilon adam_weight_decay deepspeed_config",
}
REASONS = {name: why for why, names in _NAMES.items() for name in names.split()}
ADVICE = {
    DEEPSPEED: "set optimizer_beta1, optimizer_beta2 or optimizer_config",
}
NOTHING: tuple[Any, ...] = (None, False, 0, "", "none", "no", "false", "null", [])
# Defaults of the vocabulary that existing files spell out, and that are how sd3tune works anyway.
HARMLESS = {
    "grad_clip_method": ("norm",),
    "loss_type": ("l2",),
    "lora_format": ("diffusers",),
    "lora_init_type": ("default",),
    "gradient_precision": ("unmodified",),
    "num_processes": (1,),
    "num_machines": (1,),
    "validation_seed_source": ("cpu",),
    "validation_image_format": ("png",),
    "peft_lora_mode": ("standard",),
    "disable_benchmark": (True, "true"),
    "validation_disable_unconditional": (True, "true"),
    "prediction_type": ("flow_matching",),
    "allow_tf32": (True, "true"),
    "flow_timesteps_mode": ("fixed-list",),
}

ALIASES = {
    "validation_steps": "validation_step_interval",
    "checkpointing_steps": "checkpoint_step_interval",
    "save_total_limit": "checkpoints_total_limit",
    "model_flavor": "model_flavour",
}


def asks_for_nothing(name: str, value: Any) -> bool:
    """True when a known setting we do not have is switched off, or set to what happens anyway."""
    if any(value is n or (value == n and type(value) is type(n)) for n in NOTHING):
        return True
    return value in HARMLESS.get(name, ())
