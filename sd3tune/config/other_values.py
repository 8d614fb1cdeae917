"""What other trainers call the values of settings that are a choice of words.

To add a word: put it in lower case behind the value that means the same. A value that nothing here
replaces stands beside its table (`refused` in sd3tune/tables) or in VALUES of names.py.
"""

from collections.abc import Mapping

_FLOATS = {
    "fp16": "float16 half float_16 f16", "bf16": "bfloat16 bfloat_16 brain16",
    "fp32": "float32 float float_32 f32 full",
}  # fmt: skip
_PRECISIONS = {
    "no_change": f"none no false off {' '.join(_FLOATS)} {' '.join(_FLOATS.values())}",
    "int8-quanto": "int8 qint8 int_8 8bit 8-bit int8wo int8_wo int8-bnb bnb-8bit q8_0 "
    "bnb8 load_in_8bit uint8",
    "fp8-quanto": "fp8 float8 float_8 qfloat8 fp8_e4m3 fp8_e4m3fn float8_e4m3fn float8_e5m2 "
    "fp8_scaled true",
    "int8-w8a8": "int_w8a8 int8_w8a8 w8a8",
    "fp8-w8a8": "float_w8a8 fp8_w8a8",
    "nf4-bnb": "nf4 nfloat_4 4bit 4-bit bnb-4bit bnb4 fp4 load_in_4bit bnb_nf4 nfloat4 qlora",
    "int4-quanto": "int4 qint4 uint4 int_4 int4wo q4_0",
    "int2-quanto": "int2 qint2 uint2 int_2",
}
_OPTIMIZERS = {
    "adamw": "adamw_torch adam_w torch.optim.adamw adamw_fused adamw_torch_fused adamw32bit",
    "adamw_bf16": "adamwbf16 adamw-bf16 adamw_bfloat16 adamw_adv",
    "bnb-adamw8bit": "adamw8bit adamw_8bit adamw-8bit bitsandbytes adamw_bnb_8bit adamw8 "
    "bnb_adamw8bit bitsandbytes.optim.adamw8bit adamw_8bits adamw8bitkahan adamw8bit_kahan "
    "bnb.adamw8bit",
    "bnb-adamw8bit-paged": "pagedadamw8bit paged_adamw_8bit paged_adamw8bit adamw8bit-paged "
    "adamw_8bit_paged",
    "bnb-adamw-paged": "pagedadamw pagedadamw32bit paged_adamw paged_adamw_32bit",
    "torch-adam": "adam torch.optim.adam",
    "bnb-adam8bit": "adam8bit adam_8bit adam8",
    "optimi-lion": "lion lion32bit lion_pytorch",
    "bnb-lion8bit": "lion8bit lion_8bit",
    "bnb-lion8bit-paged": "pagedlion8bit paged_lion_8bit",
    "torch-sgd": "sgd sgdnesterov sgd_nesterov torch.optim.sgd sgdnesterov8bit sgd_8bit",
    "torch-adafactor": "adafactor adafactor_torch came",
    "prodigy": "prodigyplus prodigy_plus_schedule_free prodigyplusschedulefree prodigyopt "
    "prodigy_adv prodigy_plus prodigy8bit dadaptation dadaptadam dadaptadampreprint dadaptadagrad "
    "dadaptlion dadaptsgd dadaptadan dadaptadanip dadapt_adam dadapt_adan dadapt_lion dadapt_sgd "
    "dadapt dadapt_ada_grad dadaptadamw prodigyplus.prodigyplusschedulefree automagic",
    "adamw_schedulefree": "adamwschedulefree schedule_free_adamw adamw_schedule_free "
    "radamschedulefree schedulefree schedulefreewrapper schedule_free sgdschedulefree",
    "torch-radam": "radam",
    "torch-nadam": "nadam",
    "torch-rmsprop": "rmsprop",
    "torch-adagrad": "adagrad",
    "bnb-adagrad8bit": "adagrad_8bit adagrad8bit",
    "bnb-ademamix": "ademamix",
    "bnb-ademamix8bit": "ademamix8bit ademamix_8bit",
    "optimi-adan": "adan",
    "optimi-ranger": "ranger ranger21",
    "soap": "shampoo kron muon muon_adv",
    "optimi-stableadamw": "stableadamw stable_adamw stableadam",
    "torch-adadelta": "adadelta",
    "torch-adamax": "adamax",
}
# Values of settings that are a choice of words. ours: theirs, in lower case.
_CHOICES: Mapping[str, Mapping[str, str]] = {
    "mixed_precision": {
        "fp16": _FLOATS["fp16"], "bf16": _FLOATS["bf16"],
        "no": f"fp32 none off false disabled {_FLOATS['fp32']}",
    },
    "base_model_default_dtype": _FLOATS,
    "vae_dtype": _FLOATS | {"default": "auto none"},
    "model_type": {
        "lora": "stable_diffusion_3 stable_diffusion_35 sd3 sd35 sd3.5 "
        "lokr loha locon lycoris dora peft standard adapter qlora dreambooth",
        "full": "fine-tune finetune fine_tune full-finetune full_finetune fine_tuning finetuning "
        "unet transformer rank-full",
    },
    "lora_type": {
        "standard": "lora peft default networks.lora networks.lora_sd3 peft_lora",
        "lycoris": "lokr loha locon glora boft oft oft_2 diag-oft lycoris.kohya lycoris-lokr",
    },
    "model_family": {
        "sd3": "sd35 sd3.5 sd-3 stable-diffusion-3 stable_diffusion_3 stable-diffusion-3.5 "
        "stable_diffusion_35 sd3-medium sd3.5-large sd3.5-medium stable_diffusion_3_5",
    },
    "resolution_type": {
        "area": "megapixels megapixel mp", "pixel": "edge side shorter_edge pixels",
        "pixel_area": "square bucket",
    },
    "caption_strategy": {
        "textfile": "txt text textfiles file caption captions .txt .caption text_file sample",
        "filename": "file_name name filenames",
        "instanceprompt": "instance prompt class_tokens dreambooth trigger",
        "parquet": "table", "csv": "metadata",
    },
    "attention_mechanism": {
        "native": "sdpa torch xformers flash flash_attn flash-attention default sdp pytorch "
        "scaled_dot_product mem_eff efficient flash_attention_2",
        "sageattention": "sage sageattn sage_attention",
        "sliced": "slice slicing sub-quad",
    },
    "dynamo_backend": {"no": "none off false eager disabled", "inductor": "true on default yes"},
    "quantize_via": {"accelerator": "gpu cuda device", "cpu": "host ram"},
    "lora_init_type": {"default": "true kaiming loftq lora xavier", "gaussian": "normal"},
    "data_backend_sampling": {"auto-weighting": "auto_weighting auto weighted",
                              "uniform": "equal"},
    "loss_spike_action": {"none": "off false no", "skip": "true", "stop": "abort raise"},
    "ema_device": {"cpu": "host ram", "accelerator": "gpu cuda device"},
    "ema_validation": {"none": "off false no", "ema_only": "ema true only"},
    "grad_clip_method": {"norm": "grad_norm l2"},
    "gradient_precision": {"fp32": _FLOATS["fp32"], "unmodified": "bf16 default"},
    "gradient_checkpointing_backend": {"torch": "reentrant default", "unsloth": "cpu offload "
                                       "cpu_offloaded cpu_offload"},
    "t5_padding": {"zero": "zeros pad true", "unmodified": "none false keep"},
    "crop_style": {"center": "centre centered middle", "face": "faces"},
    "crop_aspect": {"square": "1:1", "preserve": "original keep"},
    "huber_schedule": {"constant": "none fixed"},
    "optimizer": _OPTIMIZERS,
    "lr_scheduler": {
        "cosine": "cosine_annealing cosineannealing cosine_annealing_lr cosineannealinglr "
        "cosine_with_min_lr cosine_decay cosine_lr cosine_warmup cosine_annealing_warmup "
        "cosine_with_warmup_and_min_lr cosine_with_min_lr_with_warmup rex rex_annealing",
        "cosine_with_restarts": "cosine_annealing_warm_restarts cosineannealingwarmrestarts "
        "cosine_with_hard_restarts cosine_annealing_with_restarts cosine_restarts "
        "cosine_with_hard_restarts_with_warmup cosine_annealing_with_warmup_restarts",
        "constant_with_warmup": "constant_warmup warmup adafactor warmup_constant none",
        "linear": "linear_with_warmup linear_decay linear_warmup linearlr warmup_stable_decay "
        "linear_with_warmup_and_decay inverse_sqrt piecewise_constant step steplr exponential",
        "polynomial": "poly polynomial_decay polynomial_with_warmup polynomiallr",
        "constant": "fixed constantlr",
    },
    "loss_type": {
        "l2": "mse mse_loss l2_loss mean_squared_error",
        "huber": "pseudo_huber pseudo-huber pseudohuber huber_loss",
        "smooth_l1": "smooth-l1 smoothl1 smooth_l1_loss",
    },
    "lora_format": {
        "kohya": "kohya_ss sd-scripts kohya-ss",
        "comfyui": "comfy",
        "diffusers": "peft hf huggingface",
    },
    "model_flavour": {
        "sd3.5-medium": "sd3.5m sd35-medium sd35_medium stable-diffusion-3.5-medium sd3.5_medium "
        "stabilityai/stable-diffusion-3.5-medium stable_diffusion_35_medium 3.5m",
        "sd3.5-large": "sd3.5l sd35-large sd35_large stable-diffusion-3.5-large sd3.5_large 3.5l "
        "stabilityai/stable-diffusion-3.5-large sd35 sd3.5 3.5 "
        "stable_diffusion_35",
        "sd3-medium": "sd3 sd3m 3.0 stable-diffusion-3-medium sd3_medium stable_diffusion_3 "
        "stabilityai/stable-diffusion-3-medium-diffusers stabilityai/stable-diffusion-3-medium",
    },
    "base_model_precision": _PRECISIONS,
    **{f"text_encoder_{number}_precision": _PRECISIONS for number in (1, 2, 3)},
}  # fmt: skip
VALUES_ELSEWHERE = {
    setting: {theirs: ours for ours, names in choices.items() for theirs in names.split()}
    for setting, choices in _CHOICES.items()
}


def value_of(setting: str, written: object, choices: str) -> str | None:
    """What sd3tune calls another trainer's value of a setting that is a choice of words; None when
    nobody is known to write it. choices: an error that lists the words, each as 'word'."""
    if isinstance(written, Mapping):  # {"optimizer": {"optimizer": "ADAMW", "eps": 1e-8}}
        if setting not in written:
            return None
        written = written[setting]
    word = str(written).strip().lower()
    if f"'{word}'" in choices and word != written:
        return word
    return VALUES_ELSEWHERE.get(setting, {}).get(word)
