"""Settings of SimpleTuner that may have any value, because no value changes what sd3tune does.

Each is passed over with a note that gives the reason. To add a name: put it behind its reason. The
reason ends the sentence "NAME not used: ". A setting that is harmless with some values only belongs
into inert.py.
"""

from dataclasses import dataclass

from sd3tune.config.names import Unsupported


@dataclass(frozen=True)
class Accepted(Unsupported):
    """Why no value of some settings changes anything."""

    hint: str = "leave it out"


ENCODED_ONCE = (
    "images and captions are encoded once, before training, and kept in a cache; the results are "
    "the same"
)
STORED_LENGTH = "cache entries are stored to their true length instead"
REGIONAL = "dynamo_use_regional_compilation"
TILES = "the VAE encodes single images, and at last in tiles, where memory runs out"
ACCEPTED = (
    Accepted(
        "it has no effect on flow matching, nor has it in SimpleTuner",
        names="snr_gamma noise_offset noise_offset_probability offset_noise rescale_betas_zero_snr "
        "timestep_bias_begin timestep_bias_end timestep_bias_multiplier timestep_bias_portion "
        "timestep_bias_strategy disable_segmented_timestep_sampling "
        "training_scheduler_timestep_spacing inference_scheduler_timestep_spacing "
        "validation_guidance_real validation_guidance_rescale validation_no_cfg_until_timestep",
    ),
    Accepted(
        "attention_mechanism chooses the kernel",
        names="enable_xformers_memory_efficient_attention",
    ),
    Accepted(
        "sd3tune chooses its threads, and reads ahead by itself",
        names="max_workers aspect_bucket_worker_count dataloader_prefetch dataloader_prefetch_qlen "
        "enable_multiprocessing aws_max_pool_connections",
    ),
    Accepted("OMP_NUM_THREADS sets the number of PyTorch's threads", names="torch_num_threads"),
    Accepted(
        "`sd3tune dataset CONFIG` shows files, sizes and buckets",
        names="debug_aspect_buckets debug_dataset_loader print_filenames print_sampler_statistics",
    ),
    Accepted(
        "each model leaves the device when its stage ends",
        names="accelerator_cache_clear_interval fully_unload_text_encoder offload_during_startup "
        "offload_during_save",
    ),
    Accepted(
        "the VAE is read again for each validation, and its memory is free between",
        names="keep_vae_loaded",
    ),
    Accepted("gradients are always dropped after a step", names="set_grads_to_none"),
    Accepted(
        "gradients are kept until the step, because their norm is clipped; the plan counts their "
        "memory",
        names="fuse_optimizer optimizer_release_gradients",
    ),
    Accepted("ema_device says where the average is kept", names="ema_cpu_only"),
    Accepted("the average has the same values either way", names="ema_foreach_disable"),
    Accepted(
        "a downloaded model stays in the cache of the hub; `hf cache` lists and removes it",
        names="delete_model_after_load",
    ),
    Accepted("no code of a repository is executed", names="trust_remote_code"),
    Accepted("no check of sd3tune can be switched off", names="i_know_what_i_am_doing"),
    Accepted("it is a setting of SimpleTuner's web interface", names="configs_dir"),
    Accepted(
        "every checkpoint is written under another name, and renamed when it is complete",
        names="checkpointing_use_tempdir",
    ),
    Accepted(
        "a run continues from the newest complete checkpoint; damaged ones stay where they are",
        names="delete_invalid_checkpoints",
    ),
    Accepted(
        "disk space is checked before a run and before each checkpoint", names="disk_low_threshold"
    ),
    Accepted(
        "no file of a dataset is ever deleted; what cannot be used is left out and listed in "
        "set_aside.json",
        names="delete_problematic_images delete_unwanted_images",
    ),
    Accepted("the files of a dataset are listed at each start", names="ignore_missing_files"),
    Accepted("no bucket is left out because it is small", names="disable_bucket_pruning"),
    Accepted(
        "buckets change during a run only with vae_cache_clear_each_epoch",
        names="aspect_bucket_disable_rebuild",
    ),
    Accepted("the settings of today always hold", names="override_dataset_config"),
    Accepted(
        "entries of a cache are named by their content, so that none is out of date",
        names="vae_cache_scan_behaviour",
    ),
    Accepted(
        ENCODED_ONCE,
        names="vae_cache_ondemand vae_cache_disable text_cache_ondemand text_cache_disable "
        "text_embed_full_cache",
    ),
    Accepted(STORED_LENGTH, names="compress_disk_cache"),
    Accepted("dynamo_backend always compiles block by block", names=REGIONAL),
    Accepted(TILES, names="vae_enable_slicing vae_enable_tiling vae_enable_patch_conv"),
    Accepted(
        "a run ends after max_train_steps steps or num_train_epochs epochs",
        names="strict_epoch_limit",
    ),
    Accepted(
        "every image of every step has noise of its own, on whatever device",
        names="seed_for_each_device",
    ),
    Accepted(
        "processes find each other by num_machines, machine_rank and main_process_ip, or by "
        "torchrun's variables",
        names="local_rank same_network",
    ),
    Accepted("every trained parameter takes part in every step", names="find_unused_parameters"),
    Accepted("there is no assistant adapter", names="disable_assistant_lora"),
    Accepted("text encoders are never trained", names="freeze_encoder"),
)
DATASET_ACCEPTED = (
    Accepted(
        ENCODED_ONCE,
        names="vae_cache_ondemand vae_cache_disable text_cache_ondemand text_cache_disable",
    ),
    Accepted(STORED_LENGTH, names="compress_cache compress_disk_cache"),
    Accepted("the settings of today always hold", names="override_dataset_config"),
    Accepted("rows of the hub are downloaded before training", names="streaming"),
    Accepted("it is a mark of entries that SimpleTuner made itself", names="auto_generated"),
)
ACCEPTED_NAMES = {name: row for accepted in ACCEPTED for name, row in accepted.each.items()}
DATASET_ACCEPTED_NAMES = {
    name: row for accepted in DATASET_ACCEPTED for name, row in accepted.each.items()
}
