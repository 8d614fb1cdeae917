"""Settings that sd3tune does not have and that may stand in a file, because they ask for nothing.

A file that somebody published for SimpleTuner spells out what is switched off. Such a setting is
passed over with a note:

* its value is "off": null, false, 0, an empty text, or a word such as `none`, also in quotes;
* its value says what sd3tune does anyway (HARMLESS);
* the setting that switches it on is off (SWITCHES).

Settings that may have any value are in accepted.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sd3tune.config.accepted import ACCEPTED_NAMES, DATASET_ACCEPTED_NAMES

OFF = ("", "none", "no", "false", "null", "off", "never", "disabled")
# Values that existing files spell out, and that are what sd3tune does anyway.
HARMLESS = {
    "validation_seed_source": ("cpu",),
    "validation_method": ("simpletuner-local",),
    "validation_benchmark": (True, "true"),
    "peft_lora_mode": ("standard",),
    "prediction_type": ("flow_matching",),
    "disk_low_action": ("stop",),
    "start_epoch": (1,),
    "gradient_checkpointing_offload_pin_memory_max_buckets": (12,),
    "noise_scheduler": ("flowmatch", "FlowMatchEulerDiscreteScheduler"),
    "sampler": ("flowmatch",),
    "weighting_scheme": ("logit_normal",),
    "timestep_distribution": ("LOGIT_NORMAL", "logit_normal"),
    "max_noising_strength": (1, "1.0"),
    "mse_strength": (1, "1.0"),
    "loss_weight_fn": ("CONSTANT", "constant"),
    "loss_weight_strength": (1, "1.0"),
    "is_v3": (True, "true"),
    "num_repeats": (1, "1"),
    "balancing": (1, "1.0"),
    "balancing_strategy": ("REPEATS",),
    "loss_weight": (1, "1.0"),
    "image_variations": (1,),
    "text_variations": (1,),
    "include_subdirectories": (True, "true"),
    "stable_diffusion_3": (True, "true"),
    "train_unet": (True, "true"),
    "train_transformer": (True, "true"),
    "validation_guidance_real": (1, "1.0"),
    "flux_guidance_value": (1, "1.0"),
    "LoRA_type": ("Standard",),
    "peft_type": ("LORA", "lora"),
    "network_type": ("lora", "LORA"),
    "output_model_format": ("SAFETENSORS", "safetensors"),
    "use_safetensors": (True, "true"),
    "save_model_as": ("safetensors",),
    "network_module": ("networks.lora", "networks.lora_sd3"),
    "training_method": ("LORA",),
    "cache_latents": (True, "true"),
    "cache_latents_to_disk": (True, "true"),
    "cache_text_encoder_outputs": (True, "true"),
    "cache_text_encoder_outputs_to_disk": (True, "true"),
    "network_train_unet_only": (True, "true"),
    "enable_bucket": (True, "true"),
    "aspect_ratio_bucketing": (True, "true"),
    "enabled": (True, "true"),
    "clip_skip": (1, "1"),
}
MEANT_WHEN_OFF = (
    "include_subdirectories",
    "recursive",
    "validation_benchmark",
)  # sd3tune does what they switch off

# Setting -> those that change nothing while it is off or left out.
SWITCHES = {
    "push_to_hub": "post_upload_script publishing_config",
    "train_text_encoder": "text_encoder_lr",
    "validation_external_script": "validation_external_background",
    "validation_adapter_path": "validation_adapter_mode validation_adapter_name "
    "validation_adapter_strength",
    "validation_using_datasets": "validation_stitch_input_location",
    "disk_low_threshold": "disk_low_action disk_low_script",
    "assistant_lora_path": "assistant_lora_strength assistant_lora_inference_strength",
    "peft_lora_mode": "singlora_ramp_up_steps",
    "init_lora": "init_lora_step init_lora_ema",
    "masked_training": "unmasked_probability unmasked_weight masked_prior_preservation_weight",
    "validation": "validate_after validate_after_unit",
    "tensorboard": "tensorboard_port tensorboard_expose tensorboard_always_on",
    "rolling_backup": "rolling_backup_count",
    "with_prior_preservation": "num_class_images class_prompt prior_loss_weight",
}
OF_SWITCH = {name: switch for switch, names in SWITCHES.items() for name in names.split()}


def is_off(value: Any) -> bool:
    """Whether a value switches a setting off, as text too: "0.0" and "False" do."""
    if not isinstance(value, str):
        return not value  # null, false, 0, 0.0, and empty lists and objects
    text = value.strip().lower()
    if text in OFF:
        return True
    try:
        return float(text) == 0
    except ValueError:
        return False


def is_left_out(value: Any) -> bool:
    """Whether a value says that a number, a text or a path is not given: false, or a word."""
    return value is False or str(value).strip().lower() in ("none", "null")


def asks_for_nothing(name: str, value: Any, written: Mapping[str, Any]) -> bool:
    """Whether a setting that sd3tune does not have may stand beside what else was written."""
    off = is_off(value) and name not in MEANT_WHEN_OFF
    if off or value in HARMLESS.get(name, ()):
        return True
    switch = OF_SWITCH.get(name)
    if switch is None:
        return False
    value = written.get(switch)
    return is_off(value) or value in HARMLESS.get(switch, ())


def notes_on(passed_over: Iterable[str], written: Mapping[str, Any]) -> list[str]:
    """A sentence for each reason why settings were passed over. passed_over: their names."""
    named: dict[str, list[str]] = {}
    for name in passed_over:
        named.setdefault(_why(name, written[name]), []).append(name)
    return [f"{', '.join(names)} not used: {why}" for why, names in named.items()]


def _why(name: str, value: Any) -> str:
    accepted = ACCEPTED_NAMES.get(name) or DATASET_ACCEPTED_NAMES.get(name)
    if is_off(value) or value in HARMLESS.get(name, ()):
        return "the value asks for nothing"
    if accepted is not None:
        return accepted.reason
    return f"{OF_SWITCH[name]} is off"
