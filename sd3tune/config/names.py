"""The names that SimpleTuner's files hold, and what sd3tune makes of each.

To add a name: a setting under another name goes into ALIASES, a setting that sd3tune does not have
goes into UNSUPPORTED under its reason, a value that sd3tune does not have goes into VALUES. A
setting that may have any value, because none changes what sd3tune does, is in accepted.py; values
that ask for nothing are in inert.py; names of other programs than SimpleTuner are in
other_trainers.py. A name in none of them is a typing error and gets the nearest setting as a
suggestion. docs/reference/names.md is made from all of them by name_table.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unsupported:
    """Why sd3tune does not have some settings, and what to write instead."""

    reason: str
    hint: str  # `{value}` is the value that was written
    names: str = ""

    @property
    def each(self) -> dict[str, "Unsupported"]:
        """This row under each of its names."""
        return dict.fromkeys(self.names.split(), self)


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
    "allow_tf32": "disable_tf32",
}
# Other spellings of a value.
SPELLINGS = {
    "lr_scheduler": {"cosine_with_warmup": "cosine"},
    "caption_strategy": {"instance_prompt": "instanceprompt"},
    "validation_image_format": {"jpg": "jpeg"},
    "dynamo_mode": {"": "default"},
}

UNSUPPORTED = (
    Unsupported(
        "is not supported: sd3tune starts its processes without accelerate",
        "write num_processes, num_machines, machine_rank, main_process_ip and mixed_precision",
        "accelerate_config accelerate_extra_args",
    ),
    Unsupported(
        "is not supported: it is for distilled models, which SD3 adapters are not trained on",
        "leave it out; init_lora names an adapter that training begins with",
        "assistant_lora_path assistant_lora_strength assistant_lora_inference_strength",
    ),
    Unsupported(
        "is not supported: the run stops before a checkpoint that does not fit on the disk",
        "leave it out; free some space, and the same command continues from the newest checkpoint",
        "disk_low_action",
    ),
    Unsupported(
        "is not supported: it would begin with another model than the base model",
        "leave it out; LoKr begins with a product of zero, as the lycoris package makes it",
        "init_lokr_norm",
    ),
    Unsupported(
        "is not supported: a run that begins with an adapter begins at step 0",
        "leave it out; resume_from_checkpoint continues a run at its step",
        "init_lora_step",
    ),
    Unsupported(
        "is not supported: the average begins as a copy of the weights that init_lora names",
        "leave it out, or write the file of the average as init_lora",
        "init_lora_ema",
    ),
    Unsupported(
        "is not supported: no chosen part of the weights is trained alone",
        "leave it out; model_type=lora trains few weights, model_type=full all of them",
        "layer_freeze_strategy",
    ),
    Unsupported(
        "is not supported: a run has one configuration file",
        "leave it out; settings on the command line replace those of the file",
        "merge_environment_config",
    ),
    Unsupported(
        "is not supported: gradients and the optimizer's state stay on the device",
        "leave it out; optimizer=bnb-adamw8bit-paged moves its state to host memory when the "
        "device is full, and fsdp_enable=true splits it over devices",
        "optimizer_cpu_offload_method optimizer_offload_gradients",
    ),
    Unsupported(
        "is not supported: peft has no SingLoRA",
        "leave it out; use_dora=true and use_rslora=true are other kinds of LoRA, lora_type="
        "lycoris has more",
        "peft_lora_mode singlora_ramp_up_steps",
    ),
    Unsupported(
        "is not supported: all text encoders come from pretrained_model_name_or_path",
        "leave it out, or put T5 into text_encoder_3 of a copy of the model's folder",
        "pretrained_t5_model_name_or_path",
    ),
    Unsupported(
        "is not supported: a configuration that somebody shared would start programs on this "
        "machine",
        "leave it out; `sd3tune train && PROGRAM` runs a program after a run, and webhook_config "
        "reports each checkpoint",
        "post_checkpoint_script post_upload_script disk_low_script",
    ),
    Unsupported(
        "is not supported: results are published on hubs of Hugging Face",
        "set push_to_hub and hub_model_id; HF_ENDPOINT names another hub",
        "publishing_config",
    ),
    Unsupported(
        "is not a setting of its own",
        "write evaluation_type=clip",
        "clip_score",
    ),
    Unsupported(
        "is not supported: it runs a Python file of yours inside the run",
        "leave it out; a program can read events.jsonl in output_dir",
        "custom_tracker",
    ),
    Unsupported(
        "has no effect on flow matching",
        "leave it out",
        "prediction_type",
    ),
    Unsupported(
        "belongs to another model family",
        "leave it out",
        """
        conditioning_multidataset_sampling controlnet custom_text_encoder_intermediary_layers
        enable_watermark framerate freeze_encoder_after freeze_encoder_before
        freeze_encoder_strategy fused_qkv_projections pretrained_vae_model_name_or_path
        save_text_encoder text_encoder_4_precision text_encoder_limit video_size
        pixart_sigma stable_diffusion_legacy kolors flux flux_guidance_value
        flux_lora_target flux_guidance_mode flux_fast_schedule hunyuan_dit deepfloyd smoldit
        sdxl sana text_encoder_4 text_encoder_4_layer_skip effnet_encoder decoder
        decoder_text_encoder decoder_vqgan frames flux_attention_masked_training
        custom_conditioning_image unet2 hidream cogvideox ltxvideo auraflow
        """,
    ),
    Unsupported(
        "belongs to a dataset",
        "set it in multidatabackend.json",
        """
        cache_dir cache_dir_text cache_dir_vae crop crop_aspect crop_aspect_buckets crop_style
        dataset_type parquet_caption_column parquet_filename_column
        """,
    ),
    Unsupported(
        "is not supported: some schemes quantise activations and gradients, and others never do",
        "set base_model_precision=int8-w8a8 or fp8-w8a8",
        "quantize_activations",
    ),
    Unsupported(
        "is not supported: it configures loaders of diffusers that sd3tune does not use",
        "set base_model_precision",
        "quantization_config",
    ),
    Unsupported(
        "is not supported: only whole blocks are checkpointed",
        "set gradient_checkpointing_interval, or gradient_checkpointing_backend=unsloth",
        """
        gradient_checkpointing_offload_attention
        gradient_checkpointing_offload_pin_memory_max_buckets
        gradient_checkpointing_offload_prefetch gradient_checkpointing_segment_stride
        """,
    ),
    Unsupported(
        "is not supported: it streams single layers",
        "set blocks_to_swap, which streams whole blocks",
        "ramtorch",
    ),
    Unsupported(
        "is not supported: text encoders are not trained",
        "leave it out; learning_rate is the transformer's",
        "text_encoder_lr train_text_encoder",
    ),
    Unsupported(
        "is not supported: pictures show what the run trains",
        "leave it out, and draw with `sd3tune sample`, which takes several adapters with strengths",
        """
        validation_adapter_config validation_adapter_mode validation_adapter_name
        validation_adapter_path validation_adapter_strength
        """,
    ),
    Unsupported(
        "is not supported: pictures are drawn from prompts and noise, not from images of datasets",
        "leave it out, and set validation_prompt or user_prompt_library",
        """
        validation_input validation_stitch_input_location validation_using_datasets
        """,
    ),
    Unsupported(
        "is not supported: no file of settings may start programs",
        "leave it out, and call `sd3tune sample` from your own script",
        "validation_external_background validation_external_script validation_method",
    ),
    Unsupported(
        "is not supported: noise comes from the CPU's generator, so that every device draws the "
        "same picture",
        "leave it out",
        "validation_seed_source",
    ),
    Unsupported(
        "is not supported: training and pictures use the same blocks",
        "set dynamo_backend, which compiles them for both",
        "validation_torch_compile",
    ),
    Unsupported(
        "is not needed: the base model is drawn once, before the first step",
        "leave it out, or set disable_benchmark=true",
        "validation_benchmark",
    ),
    Unsupported("is used with DeepSpeed only", "leave it out", "deepspeed_config"),
    *(
        Unsupported("is used with DeepSpeed only", f"write {ours}{{value}}", name)
        for name, ours in (
            ("adam_beta1", "optimizer_beta1="),
            ("adam_beta2", "optimizer_beta2="),
            ("adam_epsilon", "optimizer_config=eps="),
            ("adam_weight_decay", "optimizer_config=weight_decay="),
        )
    ),
)
REASONS = {name: row for unsupported in UNSUPPORTED for name, row in unsupported.each.items()}

# Keys of a dataset.
DATASET_ALIASES = {
    "disable": "disabled",
    "is_regularization_data": "is_regularisation_data",
    "config": "dataset_config",
}
CSV_KEYS = {  # keys beside `csv` that mean keys inside it
    "csv_file": "path",
    "csv_url_column": "filename_column",
    "csv_caption_column": "caption_column",
}
DATASET_UNSUPPORTED = (
    Unsupported(
        "is not supported: sd3tune trains on images with captions",
        "leave it out",
        "video audio image_embeds conditioning_image_embeds i2v_ratio",
    ),
    Unsupported(
        "is not supported: conditioning images are not made from others",
        "leave it out; masks are files of a dataset of their own, named in conditioning_data",
        "data_generator conditioning",
    ),
    Unsupported(
        "is a setting of the whole run", "write it in config.json", "text_encoder_batch_size"
    ),
    Unsupported(
        "is not supported",
        "set conditioning_data in the image dataset to the id of its masks",
        "source_dataset_id",
    ),
    Unsupported(
        "is not supported: validation pictures are drawn from prompts, not from datasets",
        "leave it out",
        "disable_validation",
    ),
)
DATASET_REASONS = {
    name: row for unsupported in DATASET_UNSUPPORTED for name, row in unsupported.each.items()
}

# Values of settings: (why sd3tune does not have it, the nearest that it has). Those of settings
# that choose a row of a table are beside the table, in sd3tune/tables.
NO_WEBSHART = "shards of the webshart package are not read"
VALUES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "gradient_checkpointing_backend": {
        f"{name}-ffn": ("whole blocks are checkpointed, not their feed-forward layers", name)
        for name in ("torch", "unsloth")
    },
    "mixed_precision": {
        "fp8": ("autocast in fp8 needs arithmetic that is not built in: fp8 is for storage", "bf16")
    },
    "sageattention_usage": dict.fromkeys(
        ("training", "training+inference"),
        ("SageAttention has no backward pass, so that attention would not be trained", "inference"),
    ),
    "aspect_bucket_alignment": dict.fromkeys(
        ("8", "16", "24", "32"), ("sides are multiples of 64 pixels for SD3", "64")
    ),
    "dynamo_backend": dict.fromkeys(
        "aot_ts_nvfuser nvprims_nvfuser cudagraphs ofi fx2trt onnxrt tensorrt ipex tvm hpu_backend"
        "".split(),
        (
            "it is no longer in PyTorch, needs other hardware or compiles for inference only",
            "inductor",
        ),
    ),
    "attention_mechanism": {
        **dict.fromkeys(
            ("native-npu", "native-xla"),
            ("it is for devices that sd3tune does not run on", "native"),
        ),
        **dict.fromkeys(
            "flash-attn flash-attn-2 flash-attn-3 flash-attn-hub flash-attn-3-hub flash-attn-4-hub "
            "flash-attn-3-varlen flash-attn-varlen-hub flash-attn-3-varlen-hub".split(),
            ("PyTorch has this kernel itself", "native-flash"),
        ),
        **dict.fromkeys(
            ("flex", "sla"),
            ("it is for masked and sparse attention, and SD3's is neither", "native"),
        ),
        **dict.fromkeys(
            "sageattention-int8-fp16-triton sageattention-int8-fp16-cuda "
            "sageattention-int8-fp8-cuda".split(),
            ("the package chooses its kernel for the card", "sageattention"),
        ),
        **dict.fromkeys(
            "metal-flash-attention metal-flash-attention-int8 metal-flash-attention-int4".split(),
            ("it needs an extension that is not part of PyTorch", "sliced"),
        ),
    },
    "quantize_via": {
        "pipeline": (
            "diffusers' loaders quantise on GPUs only, and layer by layer needs no more memory",
            "accelerator",
        )
    },
    "validation_noise_scheduler": {
        **dict.fromkeys(
            ("ddim", "ddpm", "perflow"), ("it is for models that predict noise", "euler")
        ),
        "euler-a": ("diffusers has none for flow matching", "euler"),
    },
    "caption_strategy": {"webshart": (NO_WEBSHART, "textfile")},
    "metadata_backend": {"webshart": (NO_WEBSHART, "discovery")},
    "conditioning_type": dict.fromkeys(
        ("controlnet", "reference_strict", "reference_loose"),
        ("SD3 is trained without conditioning images; a mask weights the loss", "mask"),
    ),
    "lora_init_type": {
        "loftq": ("base_model_precision decides how weights are quantised", "default")
    },
}


def supported(setting: str) -> Callable[[Any], Any]:
    """Passes a value on. For one that VALUES has under `setting` it raises ValueError "reason; use
    value", of which config/problems.py makes the error and the hint."""
    table = VALUES[setting]

    def passed(value: Any) -> Any:
        if str(value) in table:
            reason, nearest = table[str(value)]
            raise ValueError(f"is not supported: {reason}; use {nearest}")
        return value

    return passed
