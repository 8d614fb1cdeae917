"""What other trainers call the settings of sd3tune: the answer to a name that is not SimpleTuner's.

The names are those of kohya's sd-scripts and its GUI, OneTrainer, ai-toolkit, the training scripts
of diffusers, and older versions of SimpleTuner. None of them is taken, because a value may mean
something else there: the error says what to write. Keys of datasets: other_trainers_data.py.
Values: other_values.py.

To add a name: one that means the same as a setting goes into RENAMED behind that setting; one that
needs another value, or has no counterpart, into without_counterpart.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.config.accepted import ACCEPTED_NAMES
from sd3tune.config.names import REASONS, Unsupported
from sd3tune.config.without_counterpart import ELSEWHERE


@dataclass(frozen=True)
class Renamed(Unsupported):
    """A name that means `ours`, with the same value."""

    ours: str = ""


RENAMED = {  # ours: theirs
    "lora_rank": "network_dim network_rank rank lora_dim lora_r lora_linear network_linear "
    "linear linear_dim lora_network_dim LoRA_rank",
    "lora_alpha": "network_alpha linear_alpha lora_network_alpha network_linear_alpha",
    "lora_dropout": "network_dropout",
    "use_dora": "lora_decompose dora dora_wd weight_decompose use_dora_lora",
    "use_rslora": "rslora rs_lora",
    "init_lora": "network_weights lora_model_name lora_weights pretrained_lora "
    "pretrained_lora_path lora_path load_lora lora_checkpoint base_weights",
    "lora_init_type": "lora_initialisation_style lora_initialization_style init_lora_weights "
    "lora_init init_weights lora_initialization",
    "peft_lora_target_modules": "lora_layers target_modules lora_target_modules "
    "lora_target lora_blocks train_blocks",
    "learning_rate": "lr unet_lr unet_learning_rate transformer_lr transformer_learning_rate "
    "mmdit_lr dit_lr base_lr max_lr peak_lr network_lr base_learning_rate initial_learning_rate "
    "learningrate lora_lr",
    "lr_scale": "scale_lr",
    "lr_scheduler": "learning_rate_scheduler scheduler lr_schedule lr_scheduler_type "
    "lr_scheduler_name schedule",
    "lr_warmup_steps": "learning_rate_warmup_steps warmup_steps num_warmup_steps warmup "
    "lr_warmup",
    "lr_end": "min_lr lr_min eta_min min_learning_rate learning_rate_end lr_final",
    "lr_power": "lr_scheduler_power polynomial_power",
    "lr_num_cycles": "lr_scheduler_num_cycles learning_rate_cycles lr_cycles num_cycles "
    "lr_restarts",
    "optimizer": "optimizer_type optim optimizer_name optimiser_type opt optim_type optimiser",
    "optimizer_beta1": "beta1 beta_1",
    "optimizer_beta2": "beta2 beta_2",
    "max_grad_norm": "clip_grad_norm gradient_clipping gradient_clip_norm gradient_clip clip_grad "
    "gradient_clip_val grad_clip grad_clip_norm",
    "train_batch_size": "batch_size per_device_train_batch_size micro_batch_size "
    "micro_batch_size_per_gpu train_micro_batch_size_per_gpu batchsize batch train_batch "
    "batch_size_per_device batch_size_per_gpu images_per_batch bs",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum grad_accum_steps "
    "grad_accumulation_steps gradient_accumulate_every accumulate_grad_batches accumulation_steps "
    "gradient_accumulation_step accum_steps gradient_accumulate_steps",
    "max_train_steps": "steps max_steps num_steps train_steps num_train_steps total_steps "
    "training_steps max_training_steps max_iterations iterations max_steps_total",
    "num_train_epochs": "epochs epoch max_train_epochs num_epochs max_epochs train_epochs "
    "training_epochs n_epochs max_num_epochs",
    "gradient_checkpointing": "use_gradient_checkpointing grad_checkpointing "
    "activation_checkpointing gradient_checkpoint",
    "checkpoint_step_interval": "save_every_n_steps save_every save_steps save_every_steps "
    "save_interval checkpoint_every checkpoint_every_n_steps checkpoint_steps checkpoint_interval "
    "ckpt_every save_step_interval save_frequency",
    "checkpoint_epoch_interval": "save_every_n_epochs save_every_epochs checkpointing_epochs "
    "save_epochs checkpoint_every_n_epochs save_model_epochs save_epoch_interval",
    "checkpoints_total_limit": "max_step_saves_to_keep keep_last_n_checkpoints checkpoints_to_keep "
    "num_checkpoints_to_keep max_checkpoints",
    "resolution": "max_resolution image_size image_resolution train_resolution size",
    "resume_from_checkpoint": "resume resume_from resume_path resume_from_state resume_ckpt "
    "resume_checkpoint resume_state",
    "output_dir": "output_folder training_folder workspace_dir save_dir output_path output "
    "logging_output_dir save_path out_dir outdir output_directory",
    "output_name": "save_filename_prefix job_name run_name exp_name experiment_name project_name "
    "lora_name adapter_name result_name name",
    "pretrained_model_name_or_path": "model_name_or_path base_model_name base_model name_or_path "
    "model_path pretrained_model pretrained_model_path ckpt checkpoint_path model_name model_id "
    "base_model_path sd_model_checkpoint ckpt_path",
    "pretrained_transformer_model_name_or_path": "transformer_path mmdit_path dit_path "
    "transformer_model_name_or_path",
    "data_backend_config": "dataloader_config dataset_file data_config multidatabackend",
    "mixed_precision": "precision train_dtype autocast_dtype",
    "base_model_default_dtype": "base_dtype weight_dtype base_model_dtype "
    "transformer_dtype dtype torch_dtype model_dtype",
    "base_model_precision": "base_model_quantization quantization transformer_precision qtype "
    "quant_type quantize_type transformer_weight_dtype quantize_to",
    "text_encoder_3_precision": "t5xxl_precision t5_precision",
    "dynamo_backend": "torch_compile_backend compile_backend",
    "attention_mechanism": "attn_mode attention attn_implementation attention_backend attn_backend",
    "blocks_to_swap": "block_swap num_blocks_to_swap block_swap_count",
    "seed": "random_seed global_seed train_seed training_seed manual_seed",
    "num_processes": "num_gpus nproc_per_node gpus n_gpus nproc num_devices",
    "fsdp_enable": "fsdp use_fsdp",
    "ema_decay": "ema_rate ema_beta",
    "use_ema": "ema enable_ema",
    "ema_update_interval": "ema_update_step_interval ema_update_every",
    "flow_schedule_shift": "training_shift discrete_flow_shift timestep_shift shift sd3_shift "
    "flux_schedule_shift noise_shift flow_shift sigma_shift model_shift time_shift",
    "flow_schedule_auto_shift": "dynamic_timestep_shifting flux_schedule_auto_shift "
    "dynamic_shift use_dynamic_shifting",
    "flow_sigmoid_scale": "logit_std sigmoid_scale flow_matching_sigmoid_scale flux_sigmoid_scale",
    "flow_use_uniform_schedule": "flux_use_uniform_schedule",
    "flow_use_beta_schedule": "flux_use_beta_schedule",
    "flow_beta_schedule_alpha": "flux_beta_schedule_alpha",
    "flow_beta_schedule_beta": "flux_beta_schedule_beta",
    "huber_c": "huber_delta huber_param",
    "loss_type": "loss loss_function loss_fn",
    "input_perturbation": "ip_noise_gamma perturbation_noise_weight",
    "caption_dropout_probability": "dropout_probability caption_dropout_rate caption_dropout_prob "
    "caption_dropout "
    "proportion_empty_prompts uncond_probability text_dropout cond_dropout_prob drop_text "
    "ucg_rate cfg_dropout",
    "tokenizer_max_length": "max_token_length t5xxl_max_token_length max_sequence_length "
    "t5_max_token_length text_encoder_3_sequence_length",
    "vae_dtype": "vae_precision vae_weight_dtype",
    "vae_batch_size": "vae_encode_batch_size",
    "validation_prompt": "sample_prompt prompt eval_prompt validation_prompts test_prompt",
    "validation_negative_prompt": "sample_negative_prompt negative_prompt neg negative_prompts",
    "user_prompt_library": "prompt_library",
    "validation_step_interval": "sample_every_n_steps sample_every sample_steps_interval "
    "validate_every_n_steps validation_interval sample_every_steps eval_steps sample_interval "
    "validation_every validate_every",
    "validation_num_inference_steps": "sample_steps num_inference_steps sampling_steps "
    "inference_steps",
    "validation_guidance": "guidance_scale cfg_scale sample_guidance_scale cfg "
    "validation_guidance_scale",
    "validation_seed": "sample_seed eval_seed",
    "validation_disable": "disable_sampling disable_validation no_validation skip_sampling "
    "disable_sample",
    "num_validation_images": "num_sample_images num_samples_per_prompt samples_per_prompt",
    "masked_loss_probability": "masked_probability",
    "masked_loss_normalize": "normalize_masked_area_loss",
    "t5_padding": "zero_padding",
    "deterministic": "full_determinism",
    "validation_on_startup": "sample_at_first",
    "validate_after_step": "sample_start_step",
    "report_to": "log_with logger tracker",
    "tracker_project_name": "wandb_project log_tracker_name",
    "tracker_run_name": "wandb_run_name log_prefix",
    "hub_model_id": "huggingface_repo_id hf_repo_id",
    "model_card_private": "hf_private",
    "push_to_hub_background": "async_upload",
    "model_card_note": "metadata_description",
    "modelspec_comment": "training_comment metadata_title metadata_author metadata_tags",
}  # fmt: skip


def by_name(
    renamed: Mapping[str, str], elsewhere: tuple[Unsupported, ...]
) -> dict[str, Unsupported]:
    """Other trainers' names -> why sd3tune does not take them, and what to write."""
    rows = {name: row for unsupported in elsewhere for name, row in unsupported.each.items()}
    for ours, names in renamed.items():
        reason = f"is another program's name for {ours}"
        rows |= Renamed(reason, f"write {ours}={{value}}", names, ours).each
    return rows


RESULT = Renamed(
    "is another program's name for the file of the result",
    "write its folder as output_dir and its name as output_name",
    "output_model_destination",
    "output_dir",
)
NAMES = by_name(RENAMED, ELSEWHERE) | RESULT.each | REASONS | ACCEPTED_NAMES
