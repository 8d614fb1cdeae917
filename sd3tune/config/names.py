"""Settings of the vocabulary that sd3tune knows and does not take, each with the reason.

A known name is refused by name; a typo gets a suggestion. A known name whose value asks for nothing
(false, 0, null, "none", "") is let through, so that existing files keep working.
"""

from collections.abc import Mapping
from typing import Any

LATER = "is not supported yet"
NO_EFFECT = "has no effect on flow matching"
OTHER = "belongs to another model family"
DEEPSPEED = "is used with DeepSpeed only"
DATASET = "belongs to a dataset"
REMOVED = "no longer exists"
WEIGHTS_ONLY = "is refused: quantised activations need calibration; their gradients are unproven"
OWN_LOADER = "is refused: it configures loaders of diffusers that sd3tune does not use"
WHOLE_BLOCKS = "is refused: checkpointing forgets whole blocks and keeps their inputs, no more"
LENGTH = "is not needed: cache entries are stored to their true length instead"
SWAP = "is not built in: it streams single layers"

_NAMES = {
    LATER: """
        accelerate_config accelerate_extra_args accelerator_cache_clear_interval allow_tf32
        aspect_bucket_disable_rebuild aspect_bucket_worker_count
        assistant_lora_inference_strength assistant_lora_path assistant_lora_strength
        aws_max_pool_connections checkpointing_use_tempdir clip_score
        configs_dir custom_tracker dataloader_prefetch dataloader_prefetch_qlen
        debug_aspect_buckets debug_dataset_loader delete_invalid_checkpoints
        delete_model_after_load delete_problematic_images delete_unwanted_images
        disable_assistant_lora disable_benchmark disable_bucket_pruning disable_tf32
        disk_low_action disk_low_script disk_low_threshold dynamo_dynamic dynamo_fullgraph
        dynamo_mode dynamo_use_regional_compilation ema_cpu_only ema_foreach_disable
        enable_multiprocessing eval_dataset_id eval_dataset_pooling eval_epoch_interval
        eval_loss_disable eval_steps_interval eval_timesteps evaluation_type
        find_unused_parameters freeze_encoder fully_unload_text_encoder fuse_optimizer
        hub_model_id i_know_what_i_am_doing ignore_final_epochs ignore_missing_files
        image_processing_batch_size init_lokr_norm  init_lora_ema init_lora_step
        keep_vae_loaded layer_freeze_strategy local_rank logging_dir 
        max_upscale_threshold max_workers merge_environment_config metadata_update_interval
        model_card_note model_card_private model_card_safe_for_work modelspec_comment
        num_eval_images offload_during_save offload_during_startup optimizer_cpu_offload_method
        optimizer_offload_gradients optimizer_release_gradients override_dataset_config
        peft_lora_mode post_checkpoint_script post_upload_script preserve_data_backend_cache
        pretrained_evaluation_model_name_or_path pretrained_t5_model_name_or_path
        print_filenames print_sampler_statistics publishing_config push_checkpoints_to_hub
        push_to_hub push_to_hub_background read_batch_size report_to same_network
        seed_for_each_device set_grads_to_none singlora_ramp_up_steps strict_epoch_limit
        text_cache_disable text_cache_ondemand text_embed_full_cache text_encoder_lr
        torch_num_threads tracker_image_layout tracker_project_name tracker_run_name
        train_text_encoder trust_remote_code vae_cache_disable vae_cache_ondemand
        vae_cache_preprocess vae_cache_scan_behaviour vae_enable_patch_conv vae_enable_slicing
        vae_enable_tiling validate_after_epoch validate_after_step validation_adapter_config
        validation_adapter_mode validation_adapter_name validation_adapter_path
        validation_adapter_strength validation_benchmark validation_disable_unconditional
        validation_epoch_interval validation_external_background validation_external_script
        validation_image_format validation_image_quality validation_input
        validation_lycoris_strength validation_method validation_multigpu
        validation_noise_scheduler validation_on_startup validation_preview
        validation_preview_steps validation_prompt_library validation_randomize
        validation_seed_source validation_stitch_input_location validation_torch_compile
        validation_using_datasets webhook_config webhook_reporting_interval
        """,
    NO_EFFECT: """
        disable_segmented_timestep_sampling noise_offset noise_offset_probability offset_noise
        prediction_type rescale_betas_zero_snr snr_gamma timestep_bias_begin timestep_bias_end
        timestep_bias_multiplier timestep_bias_portion timestep_bias_strategy
        training_scheduler_timestep_spacing inference_scheduler_timestep_spacing
        validation_guidance_real validation_guidance_rescale validation_no_cfg_until_timestep
        """,
    OTHER: """
        conditioning_multidataset_sampling controlnet
        custom_text_encoder_intermediary_layers enable_watermark framerate
        freeze_encoder_after freeze_encoder_before freeze_encoder_strategy
        fused_qkv_projections pretrained_vae_model_name_or_path save_text_encoder
        text_encoder_4_precision text_encoder_limit video_size
        """,
    DATASET: """
        cache_dir cache_dir_text cache_dir_vae crop crop_aspect crop_aspect_buckets
        crop_style dataset_type disable_multiline_split instance_prompt only_instance_prompt
        parquet_caption_column parquet_filename_column prepend_instance_prompt
        skip_file_discovery
        """,
    WEIGHTS_ONLY: "quantize_activations",
    OWN_LOADER: "quantization_config",
    WHOLE_BLOCKS: """
        gradient_checkpointing_offload_attention
        gradient_checkpointing_offload_pin_memory_max_buckets
        gradient_checkpointing_offload_prefetch gradient_checkpointing_segment_stride
        """,
    LENGTH: "compress_disk_cache",
    SWAP: "ramtorch",
    REMOVED: "enable_xformers_memory_efficient_attention",
    DEEPSPEED: "adam_beta1 adam_beta2 adam_epsilon adam_weight_decay deepspeed_config",
}
REASONS = {name: why for why, names in _NAMES.items() for name in names.split()}
ADVICE = {
    WEIGHTS_ONLY: "leave it out; base_model_precision quantises the weights",
    OWN_LOADER: "set base_model_precision",
    WHOLE_BLOCKS: "gradient_checkpointing_interval and gradient_checkpointing_backend=unsloth "
    "are there",
    SWAP: "blocks_to_swap streams whole blocks",
    DEEPSPEED: "set optimizer_beta1, optimizer_beta2 or optimizer_config",
    DATASET: "set it in multidatabackend.json",
    REMOVED: "leave it out; attention_mechanism chooses the kernel",
}
NOTHING = ("", "none", "no", "false", "null", "off", "0")
# Defaults of the vocabulary that existing files spell out, and that are how sd3tune works anyway.
HARMLESS = {
    "validation_seed_source": ("cpu",),
    "validation_image_format": ("png",),
    "peft_lora_mode": ("standard",),
    "disable_benchmark": (True, "true"),
    "validation_disable_unconditional": (True, "true"),
    "prediction_type": ("flow_matching",),
    "allow_tf32": (True, "true"),
    "checkpointing_use_tempdir": (True, "true"),
    "local_rank": (-1,),
    "same_network": (True, "true"),
    "start_epoch": (1,),
    "compress_cache": (True, "true", "True"),
    "compress_disk_cache": (True, "true", "True"),
    "override_dataset_config": (True, "true"),
    "gradient_checkpointing_offload_pin_memory_max_buckets": (12,),
}

# Of those, what does ask for something: let through with a note.
NOTED = ("compress_cache", "compress_disk_cache")

ALIASES = {
    "validation_steps": "validation_step_interval",
    "checkpointing_steps": "checkpoint_step_interval",
    "save_total_limit": "checkpoints_total_limit",
    "model_flavor": "model_flavour",
}
# Old names that say the opposite of the new ones.
INVERTED = {
    "vae_cache_preprocess": "vae_cache_ondemand",
    "ignore_final_epochs": "strict_epoch_limit",
}
# Other spellings of a value.
SPELLINGS = {
    "lr_scheduler": {"cosine_with_warmup": "cosine"},
    "caption_strategy": {"instance_prompt": "instanceprompt"},
}


def asks_for_nothing(name: str, value: Any) -> bool:
    """True when a known setting we do not have is switched off, or set to what happens anyway."""
    off = not value  # null, false, 0, 0.0, and empty text, lists and objects
    if isinstance(value, str):
        off = value.strip().lower() in NOTHING
    return off or value in HARMLESS.get(name, ())


def notes_on(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} not used: {LENGTH.partition(': ')[2]}"
        for name in NOTED
        if values.get(name) in HARMLESS[name]
    ]
