"""What other trainers call the values of settings that are a choice of words.

Values that choose a row of a table stand beside that table (`refused` in sd3tune/tables).
"""

from collections.abc import Mapping

_FLOATS = {
    "fp16": "float16 half float_16 f16", "bf16": "bfloat16 bfloat_16 brain16",
    "fp32": "float32 float float_32 f32 full",
}  # fmt: skip
# Values of settings that are a choice of words. ours: theirs, in lower case.
_CHOICES: Mapping[str, Mapping[str, str]] = {
    "mixed_precision": {
        "fp16": _FLOATS["fp16"], "bf16": _FLOATS["bf16"],
        "no": f"fp32 none off false disabled {_FLOATS['fp32']}",
    },
    "base_model_default_dtype": _FLOATS,
    "vae_dtype": _FLOATS | {"default": "auto none"},
    "model_type": {
        "lora": "lokr loha locon lycoris dora peft standard adapter qlora dreambooth",
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
}  # fmt: skip
VALUES_ELSEWHERE = {
    setting: {theirs: ours for ours, names in choices.items() for theirs in names.split()}
    for setting, choices in _CHOICES.items()
}


def value_of(setting: str, written: object) -> str | None:
    """What sd3tune calls another trainer's value of a setting that is a choice of words; None when
    nobody is known to write it."""
    word = str(written).strip().lower()
    return VALUES_ELSEWHERE.get(setting, {}).get(word)
