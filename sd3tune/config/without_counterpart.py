"""Settings of other trainers that mean no one setting of sd3tune: why, and what to write.

`{value}` in a hint is the value that was written.
"""

from sd3tune.config.names import Unsupported

OF_DATASETS = "belongs to a dataset"
TRIGGER = (
    'write "instance_prompt": "{value}" in an entry of multidatabackend.json, with '
    '"prepend_instance_prompt": true beside captions, or "caption_strategy": "instanceprompt" '
    "without"
)
NO_AUGMENTATION = "is not supported: images are trained as they are"
ENCODED_BEFORE = "is not needed: images and captions are always encoded before training"
SECTION = "is a section of another program's file"
ELSEWHERE = (
    Unsupported(
        "is another program's name for the images' folder",
        'write "instance_data_dir": "{value}" in an entry of multidatabackend.json',
        "train_data_dir instance_data_dir image_dir data_dir dataset_dir folder_path dataset_path "
        "images_dir img_dir train_dir training_data_dir dataset data_root "
        "image_folder train_image_dir instance_data_root input_dir data_path",
    ),
    Unsupported(
        "is another program's name for regularisation images",
        "add an entry with is_regularisation_data=true to multidatabackend.json",
        "reg_data_dir class_data_dir with_prior_preservation num_class_images class_prompt "
        "prior_loss_weight class_data_root",
    ),
    Unsupported(
        OF_DATASETS,
        'write "repeats" in multidatabackend.json: how many times more than once, so 9 for 10',
        "num_repeats dataset_repeats repeats image_repeats",
    ),
    Unsupported(
        "is another program's name for instance_prompt, which belongs to a dataset",
        TRIGGER,
        "trigger_word class_tokens concept_prompt token_string trigger instance_token",
    ),
    Unsupported(
        "is SimpleTuner's old name for the images' folder, which belongs to a dataset",
        'write "instance_data_dir": "{value}" in an entry of multidatabackend.json',
        "instance_dir",
    ),
    Unsupported(
        "is another program's name for the way captions are read",
        "write caption_strategy=textfile: captions in .txt files beside the images",
        "caption_extension caption_ext caption_extention caption_type prompt_source",
    ),
    Unsupported(
        OF_DATASETS,
        'write "caption_shuffle": {"count": 3} in multidatabackend.json',
        "shuffle_caption shuffle_captions shuffle_tokens keep_tokens enable_tag_shuffling "
        "keep_tokens_separator shuffle_tags",
    ),
    Unsupported(
        OF_DATASETS,
        'write "crop": true, "crop_style": "center" in multidatabackend.json',
        "center_crop",
    ),
    Unsupported(
        OF_DATASETS,
        'write "crop": true, "crop_style": "random" in multidatabackend.json',
        "random_crop",
    ),
    Unsupported(
        OF_DATASETS,
        'write "max_upscale_threshold": 0 in multidatabackend.json, which leaves small images out',
        "bucket_no_upscale no_upscale",
    ),
    Unsupported(
        "is not needed: each image goes to the bucket nearest to its aspect",
        'leave it out; "crop": true in multidatabackend.json trains on squares',
        "enable_bucket aspect_ratio_bucketing enable_ar_bucket min_bucket_reso max_bucket_reso "
        "bucket_reso_steps bucket_reso_step num_ar_buckets min_ar max_ar",
    ),
    Unsupported(
        NO_AUGMENTATION,
        "leave it out, or put changed copies into the dataset",
        "flip_aug color_aug random_flip face_crop_aug_range flip_x flip_y augmentations "
        "random_rotate",
    ),
    Unsupported(
        ENCODED_BEFORE,
        "leave it out",
        "cache_latents cache_latents_to_disk cache_text_encoder_outputs image_caching text_caching "
        "cache_text_encoder_outputs_to_disk latent_caching vae_caching cache_text_embeddings "
        "skip_cache_check cache_info only_cache clear_cache_before_training",
    ),
    Unsupported(
        "is not needed: sd3tune trains one kind of network, a LoRA of the transformer",
        "leave it out; write lora_type=lycoris for LoHa, LoKr and others",
        "network_module network_type LoRA_type peft_type network_train_unet_only train_unet "
        "train_transformer network_train_dit_only unet_only",
    ),
    Unsupported(
        "is another program's name for the options of LyCORIS",
        "leave it out for a LoRA; for LyCORIS write lora_type=lycoris and the options into "
        "lycoris_config.json",
        "network_args algo lycoris_args lokr_dim lokr_factor lokr_decompose_factor lycoris_algo "
        "lokr_full_matrix network_kwargs",
    ),
    Unsupported(
        "is not supported: convolutions are no part of SD3's transformer",
        "leave it out",
        "conv conv_dim conv_alpha network_conv conv_lora_dim",
    ),
    Unsupported(
        "is not supported: text encoders are not trained",
        "leave it out; learning_rate is the transformer's",
        "text_encoder_learning_rate network_train_text_encoder_only train_clip te_lr te1_lr te2_lr "
        "text_encoder_lr1 text_encoder_lr2 learning_rate_te learning_rate_te1 learning_rate_te2 "
        "train_text_encoder_ti train_t5xxl stop_text_encoder_training text_encoder_1_lr "
        "text_encoder_2_lr text_encoder_learning_rate_1 adam_weight_decay_text_encoder "
        "train_text_encoder_frac embedding_learning_rate textencoder_lr train_te",
    ),
    Unsupported(
        "is not supported: SD3 was trained with the layers of CLIP that it has",
        "leave it out",
        "clip_skip clip_layer_skip text_encoder_layer_skip text_encoder_2_layer_skip "
        "text_encoder_3_layer_skip",
    ),
    Unsupported(
        "has no effect on flow matching",
        "leave it out",
        "min_snr_gamma min_snr zero_terminal_snr v_parameterization v2 v_pred "
        "scale_v_pred_loss_like_noise_pred v_pred_like_loss debiased_estimation_loss "
        "multires_noise_iterations multires_noise_discount adaptive_noise_scale "
        "offset_noise_weight noise_offset_type noise_offset_random_strength loss_weight_fn "
        "rescale_noise_scheduler_to_zero_terminal_snr noise_scheduler prior_preservation_weight "
        "force_v_prediction force_epsilon_prediction generalized_offset_noise vb_loss_strength",
    ),
    Unsupported(
        "is not supported: noise levels are logit-normal, as SD3 was trained",
        "leave it out, or set flow_use_uniform_schedule, flow_use_beta_schedule or loss_weighting; "
        "`sd3tune config import` translates a whole file",
        "weighting_scheme timestep_sampling timestep_type timestep_distribution mode_scale "
        "logit_mean noising_weight noising_bias min_timestep max_timestep min_noising_strength "
        "max_noising_strength sigma_sampling linear_timesteps timestep_sample_method",
    ),
    Unsupported(
        "is another program's name for 8-bit Adam",
        "write optimizer=bnb-adamw8bit",
        "use_8bit_adam use_8bit_adamw adam_8bit",
    ),
    Unsupported("is an old name", "write optimizer=prodigy", "use_prodigy_optimizer use_prodigy"),
    Unsupported("is an old name", "write optimizer=adamw_bf16", "adam_bfloat16"),
    Unsupported(
        "is an old name",
        "write optimizer=torch-adafactor",
        "use_adafactor_optimizer use_adafactor",
    ),
    Unsupported(
        "is another program's name", "write optimizer=bnb-lion8bit", "use_lion_optimizer use_lion"
    ),
    Unsupported(
        "is another program's name for an option of the optimizer",
        "write optimizer_config=weight_decay={value}",
        "weight_decay wd optimizer_weight_decay",
    ),
    Unsupported(
        "is another program's name for an option of the optimizer",
        "write optimizer_config=eps={value}",
        "adam_eps optimizer_eps epsilon optimizer_epsilon",
    ),
    Unsupported(
        "is another program's name for the options of the optimizer",
        "write optimizer_config as weight_decay=0.01,eps=1e-8",
        "optimizer_args optimizer_params optimizer_kwargs optimizer_options prodigy_beta3 "
        "prodigy_decouple prodigy_use_bias_correction prodigy_safeguard_warmup d_coef betas",
    ),
    Unsupported(
        "is another program's factor on the learning rate",
        "leave it out, or write lr_scale=true",
        "learning_rate_scaler learning_rate_scale",
    ),
    Unsupported(
        "is not supported: a schedule has no options but lr_end, lr_power and lr_num_cycles",
        "leave it out",
        "lr_scheduler_args scheduler_params lr_scheduler_params lr_scheduler_kwargs "
        "lr_scheduler_timescale lr_decay_steps lr_scheduler_min_lr_ratio learning_rate_min_factor "
        "custom_learning_rate_scheduler",
    ),
    Unsupported(
        "is not supported: warm-up is counted in steps",
        "write lr_warmup_steps",
        "warmup_ratio lr_warmup_ratio warmup_epochs warmup_proportion",
    ),
    Unsupported(
        "is not supported: checkpoints are counted in steps or epochs, and the newest are kept",
        "write checkpoint_step_interval, checkpoint_epoch_interval and checkpoints_total_limit",
        "save_n_epoch_ratio save_last_n_steps save_last_n_epochs save_last_n_steps_state "
        "save_last_n_epochs_state backup_after rolling_backup rolling_backup_count save_every_unit "
        "save_after save_skip_first backup_after_unit backup_before_save",
    ),
    Unsupported(
        "is not needed: every checkpoint holds what a run needs to continue",
        "leave it out",
        "save_state save_state_on_train_end save_state_to_huggingface continue_last_backup",
    ),
    Unsupported(
        "is not needed: results are safetensors files",
        "leave it out; lora_format chooses the dialect",
        "save_model_as output_model_format use_safetensors safe_serialization save_precision "
        "output_dtype no_metadata save_dtype lora_weight_dtype",
    ),
    Unsupported(
        "is not supported: pictures are counted in steps",
        "write validation_step_interval",
        "validation_epochs sample_every_n_epochs validation_epoch sample_after sample_after_unit "
        "validate_after validate_after_unit not_validation_final final_validation_prompt "
        "sample_every_epochs validate_every_n_epochs",
    ),
    Unsupported(
        "is not supported: pictures are drawn with Euler steps",
        "leave it out",
        "sample_sampler sampler sample_scheduler validation_scheduler",
    ),
    Unsupported(
        "is another program's name for the size of pictures",
        "write validation_resolution=1024x1024",
        "sample_width sample_height width height sample_resolution validation_size",
    ),
    Unsupported(
        "is not supported: pictures are drawn one by one, beside those of the base model",
        "leave it out; validation_disable, validation_seed and ema_validation are settings",
        "skip_first_sample sample_skip_first enable_sample non_ema_sampling walk_seed "
        "force_circular_padding sample_batch_size",
    ),
    Unsupported(
        "is another program's name for a tracker or a login",
        "write report_to=wandb, or push_to_hub=true; log in with `wandb login`, `hf auth login`",
        "wandb use_wandb tensorboard wandb_api_key log_tracker_config log_config hub_token "
        "huggingface_token",
    ),
    Unsupported(
        "is not supported: adapters have one kind of dropout, captions are dropped whole",
        "leave it out, or set lora_dropout or caption_dropout_probability",
        "network_dropout_rank scale_weight_norms rank_dropout module_dropout weighted_captions "
        "caption_dropout_every_n_epochs caption_tag_dropout_rate caption_prefix caption_suffix "
        "caption_dropout_interval loss_scaler loss_weight_strength prior_generation_precision",
    ),
    Unsupported(
        "is not needed: attention_mechanism is chosen for the machine",
        "leave it out, or set attention_mechanism=native",
        "xformers sdpa mem_eff_attn use_xformers flash_attn enable_xformers "
        "use_flash_attention enable_flash_attention split_attn",
    ),
    Unsupported(
        "is another program's switch for torch.compile",
        "write dynamo_backend=inductor",
        "torch_compile compile use_torch_compile",
    ),
    Unsupported(
        "is another program's switch for quantised weights",
        "write base_model_precision=fp8-quanto, int8-quanto or nf4-bnb",
        "fp8_base fp8_base_unet quantize quantize_te quantize_model fp8_scaled load_in_8bit "
        "load_in_4bit fp8_llm quantization_bits bits use_8bit use_4bit use_fp8",
    ),
    Unsupported(
        "is not supported: weights are trained in the format that the optimizer has",
        "leave it out, or set optimizer=adamw_bf16 with model_type=full",
        "full_bf16 full_fp16 pure_bf16 pure_fp16 no_half_vae upcast_before_saving",
    ),
    Unsupported(
        "is not needed: it changes no result here",
        "leave it out",
        "lowram highvram lowvram low_vram cpu_offload_checkpointing max_data_loader_n_workers "
        "persistent_data_loader_workers vae_batch dataloader_num_workers num_workers "
        "caching_threads prefetch_next_batch temp_device train_device device debug_mode debug_dir "
        "tensorboard_expose tensorboard_always_on tensorboard_port async_offloading disable_mmap "
        "disable_mmap_load_safetensors skip_until_initial_step initial_step initial_epoch "
        "enable_autocast_cache dataloader_pin_memory performance_log_every "
        "ddp_gradient_as_bucket_view ddp_static_graph ddp_timeout fused_backward_pass "
        "include_train_config prevent_overwrites dataloader_threads fallback_train_dtype "
        "fused_gradient_reduce async_gradient_reduce async_gradient_reduce_buffer "
        "gradient_reduce_precision num_cpu_threads_per_process tokenizers_parallelism "
        "sample_image_format sample_video_format sample_audio_format samples_to_tensorboard "
        "dynamo_use_dynamic dynamo_use_fullgraph __version additional_parameters "
        "logging_tracker_name",
    ),
    Unsupported(
        "is not supported: CLIP has 77 tokens",
        "leave it out; tokenizer_max_length is T5's",
        "text_encoder_sequence_length text_encoder_1_sequence_length "
        "text_encoder_2_sequence_length",
    ),
    Unsupported(
        "is another program's choice of GPUs",
        "write num_processes, and choose GPUs with CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES",
        "multi_gpu device_indexes gpu_ids device_ids",
    ),
    Unsupported(
        "is not needed: sd3tune finds the parts of SD3 in pretrained_model_name_or_path",
        "leave it out",
        "clip_l clip_g t5xxl vae t5xxl_device t5xxl_dtype t5xxl_path clip_l_path clip_g_path "
        "vae_path arch model_arch is_v3 sd3 stable_diffusion_3 is_flux text_encoder_path "
        "model_version",
    ),
    Unsupported(
        "is not supported: the model sees captions and positions as it was trained",
        "leave it out",
        "apply_lg_attn_mask apply_t5_attn_mask pos_emb_random_crop_rate enable_scaled_pos_embed "
        "attention_mask use_attention_mask",
    ),
    Unsupported(
        "is not supported: textual inversion is not trained",
        "leave it out",
        "embedding embedding_weight_dtype preserve_embedding_norm bundle_additional_embeddings "
        "train_text_encoder_ti_frac num_new_tokens_per_abstraction token_abstraction",
    ),
    Unsupported(
        "is not supported: one loss is trained, without a mixture",
        "leave it out, or write loss_type=l2, huber or smooth_l1",
        "mse_strength mae_strength log_cosh_strength huber_strength",
    ),
    Unsupported(
        "is another program's choice of the trained layers",
        "leave it out, or write the names of layers into peft_lora_target_modules",
        "layer_filter layer_filter_preset layer_filter_regex only_if_contains ignore_if_contains",
    ),
    Unsupported(
        "is not supported",
        "write use_dora=true or the options of OFT into lycoris_config.json",
        "lora_decompose_norm_epsilon lora_decompose_output_axis oft_block_size oft_coft coft_eps "
        "oft_block_share",
    ),
    Unsupported(
        "is another program's switch for memory",
        "leave it out, or write blocks_to_swap for weights and "
        "gradient_checkpointing_backend=unsloth for activations in host memory",
        "enable_async_offloading enable_activation_offloading layer_offload_fraction layer_offload "
        "layer_offloading",
    ),
    Unsupported(
        "is not supported: images that cannot be read are set aside and never deleted",
        "leave it out",
        "delete_errored_images delete_small_images",
    ),
    Unsupported(
        "is another program's choice of what is trained",
        "write model_type=lora or model_type=full",
        "training_method train_type finetune_type training_type",
    ),
    Unsupported(
        "is another program's switch for masks",
        'add an entry with "dataset_type": "conditioning" to multidatabackend.json and name it in '
        '"conditioning_data"',
        "masked_loss masked_training conditioning_data_dir unmasked_probability unmasked_weight "
        "mask_path alpha_mask masked_prior_preservation_weight use_masks",
    ),
    Unsupported(
        "is another program's name for a Hugging Face dataset",
        'write "type": "huggingface" and "dataset_name" in an entry of multidatabackend.json',
        "dataset_name dataset_config_name image_column caption_column train_data_files hf_dataset",
    ),
    Unsupported(
        "is another program's list of datasets",
        "write its folders as entries of multidatabackend.json; `sd3tune demo DIR` writes an "
        "example",
        "dataset_config dataset_config_file concept_file_name datasets_config dataset_toml",
    ),
    Unsupported(
        "is another program's list of prompts",
        'write user_prompt_library as the path of a JSON file such as {"cat": "a cat on a sofa"}',
        "sample_prompts sample_definition_file_name sample_prompt_file sample_prompts_file "
        "prompts_file prompts",
    ),
    Unsupported(
        "is another program's choice of evaluation",
        'leave it out, or add an entry with "dataset_type": "eval" to multidatabackend.json',
        "validation validation_split validation_seed_list max_validation_steps",
    ),
    Unsupported(
        "is another program's table of captions",
        'write "csv" or "parquet" in an entry of multidatabackend.json',
        "in_json metadata_file dataset_json train_metadata metadata_path",
    ),
    Unsupported(
        SECTION,
        "`sd3tune config import FILE` translates a file of kohya, OneTrainer, ai-toolkit or "
        "diffusers; in a file of sd3tune, settings stand at the top level",
        "job process network save train model sample samples datasets concepts meta "
        "general subsets ema_config unet transformer text_encoder text_encoder_1 text_encoder_2 "
        "text_encoder_3 prior optimizer_defaults additional_embeddings secrets cloud "
        "model_arguments training_arguments optimizer_arguments dataset_arguments adapter "
        "additional_network_arguments saving_arguments sample_prompt_arguments "
        "logging_arguments training data monitoring lora sample_definitions samples_config_path",
    ),
    Unsupported(
        "is another program's option",
        "name the file without it, as in `sd3tune train {value}`",
        "config config_file config_path train_config",
    ),
)
