# ruff: noqa: E501  (tables: one case a line)
"""What was set and changes nothing, or may not be meant: one sentence each, with what to write."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config import rules
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset, Masks
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.config.docstrings import docstring
from sd3tune.config.rules.dataset_contradictions import DATASET_CONTRADICTIONS, FORBIDDEN_BY_RUN
from sd3tune.config.rules.dataset_without_effect import (
    COLUMNS_WITHOUT_EFFECT,
    DATASET_WITHOUT_EFFECT,
    MASKS_WITHOUT_EFFECT,
    STORED_WITHOUT_EFFECT,
)
from sd3tune.config.rules.rule import Rule
from sd3tune.config.rules.run_without_effect import SWITCHED_OFF_BY_RUN
from sd3tune.config.rules.without_effect import IDLE, WITHOUT_EFFECT
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.errors import ConfigError

LEAST: dict[str, Any] = {"output_dir": "out", "max_train_steps": 10}
IMAGES: dict[str, Any] = {"id": "a", "instance_data_dir": "photos", "resolution": 64}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    for folder in ("photos", "masks", "models/m"):
        Path(folder).mkdir(parents=True)


def load(**settings: Any) -> Config:
    Path("config/config.json").write_text(json.dumps(LEAST | settings))
    return Config.load(Path("config/config.json"))


PROMPT = {"validation_prompt": "a wall"}
NOTHING_QUANTISED = {"base_model_precision": "no_change"} | {
    f"text_encoder_{i}_precision": "no_change" for i in (1, 2, 3)
}
S = "scheduled_sampling_"
ROLLOUT = {f"{S}max_step_offset": 4, f"{S}probability": 0.5}
DISCORD = {"webhook_type": "discord", "webhook_url": "https://discord.com/api/webhooks/1/x"}
# What switches them off, the settings that change nothing then, and why.
SWITCHED_OFF: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"pretrained_model_name_or_path": "a/b"}, {"model_flavour": "large"}, "pretrained_model_name_or_path names the model"),
    ({}, {"pretrained_transformer_subfolder": "unet"}, "pretrained_transformer_model_name_or_path is not set"),
    ({"pretrained_model_name_or_path": "models/m"}, {"revision": "main"}, "the model is on this machine"),
    ({"model_type": "full"}, {"lora_rank": 8, "lora_alpha": 4, "lora_dropout": 0, "lora_format": "kohya", "output_name": "x"}, "model_type=full has no adapter"),
    ({"lora_type": "lycoris"}, {"lora_rank": 8, "lora_alpha": 4, "lora_dropout": 0}, "lycoris_config says how the adapter is built"),
    ({}, {"lr_end": 1e-6}, "lr_scheduler=constant_with_warmup does not fall"),
    ({"lr_scheduler": "cosine"}, {"lr_power": 2}, "lr_scheduler is cosine, not polynomial"),
    ({"lr_scheduler": "linear"}, {"lr_num_cycles": 3}, "lr_scheduler is linear, not cosine_with_restarts"),
    ({"max_grad_norm": 0}, {"grad_clip_method": "value"}, "max_grad_norm=0 switches clipping off"),
    ({"optimizer": "prodigy"}, {"gradient_precision": "fp32"}, "prodigy trains float32 weights"),
    (NOTHING_QUANTISED, {"quantize_via": "cpu", "cache_dir_quantised": "q"}, ""),
    ({"dynamo_backend": "no"}, {"dynamo_mode": "max-autotune", "dynamo_fullgraph": True, "dynamo_dynamic": True}, "dynamo_backend is no"),
    ({"base_model_precision": "int8-quanto"}, {"w8a8_check_interval": 10}, "the transformer does not multiply in 8 bits"),
    ({"dynamo_backend": "aot_eager"}, {"dynamo_mode": "max-autotune"}, "dynamo_backend=aot_eager searches"),
    ({"flow_use_beta_schedule": True}, {"flow_sigmoid_scale": 2}, "flow_use_beta_schedule draws the noise levels"),
    ({"flow_custom_timesteps": 500}, {"flow_schedule_shift": 2}, "flow_custom_timesteps are taken as they are"),
    ({"flow_custom_timesteps": 500}, {"flow_schedule_auto_shift": True}, "flow_custom_timesteps are taken as they are"),
    ({}, {"flow_beta_schedule_alpha": 1, "flow_beta_schedule_beta": 3}, "flow_use_beta_schedule is off"),
    ({}, {"flow_timesteps_mode": "round-robin"}, "flow_custom_timesteps is not set"),
    ({}, {"huber_c": 0.5, "huber_schedule": "constant"}, "loss_type is l2"),
    ({}, {"input_perturbation_steps": 5}, "input_perturbation is 0"),
    ({"pretrained_transformer_model_name_or_path": "./m.safetensors"}, {"pretrained_transformer_subfolder": "unet"}, "pretrained_transformer_model_name_or_path is a file"),
    ({"masked_loss_probability": 0}, {"masked_loss_normalize": True}, "masked_loss_probability is 0"),
    ({}, {"loss_spike_factor": 3}, "loss_spike_action is none"),
    ({}, {f"{S}probability": 0.5, f"{S}ramp_steps": 3, f"{S}prob_start": 0.1, f"{S}prob_end": 0.7, f"{S}ramp_shape": "cosine", f"{S}start_step": 4, f"{S}strategy": "biased_late", f"{S}reflexflow": True, f"{S}reflexflow_alpha": 2, f"{S}reflexflow_beta1": 2, f"{S}reflexflow_beta2": 2}, f"{S}max_step_offset is 0"),
    ({f"{S}max_step_offset": 4, f"{S}ramp_steps": 3}, {f"{S}probability": 0.5}, f"{S}ramp_steps rules the probability"),
    (ROLLOUT, {f"{S}prob_start": 0.1, f"{S}prob_end": 0.7, f"{S}ramp_shape": "cosine"}, f"{S}ramp_steps is 0"),
    (ROLLOUT | {f"{S}reflexflow": False}, {f"{S}reflexflow_alpha": 2, f"{S}reflexflow_beta1": 2, f"{S}reflexflow_beta2": 2}, f"{S}reflexflow is false"),
    ({}, {"ema_decay": 0.9, "ema_warmup_steps": 3, "ema_update_interval": 2, "ema_device": "accelerator", "ema_validation": "ema_only"}, "use_ema is false"),
    ({}, {"checkpoints_rolling_total_limit": 3}, "checkpointing_rolling_steps is 0"),
    ({}, {"tracker_project_name": "x", "tracker_run_name": "x", "tracker_image_layout": "table", "logging_dir": "x"}, "report_to is none"),
    ({"report_to": "tensorboard"}, {"tracker_project_name": "x"}, "tensorboard has no projects"),
    ({"report_to": "trackio"}, {"logging_dir": "x"}, "trackio keeps its data in TRACKIO_DIR"),
    ({"report_to": "wandb"}, {"tracker_image_layout": "table"}, "there is no prompt to draw"),
    ({}, {"machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 30000}, "num_machines is 1"),
    ({}, {"fsdp_reshard_after_forward": False}, "fsdp_enable is false"),
    ({"validation_disable": True}, {"validation_prompt": "x", "user_prompt_library": "l.json", "validation_prompt_library": True, "validation_step_interval": 5}, "validation_disable is true"),
    ({}, {"validation_negative_prompt": "x", "validation_resolution": "64x64", "validation_guidance": 4, "validation_num_inference_steps": 9, "validation_noise_scheduler": "unipc", "validation_seed": 3, "num_validation_images": 2, "validation_step_interval": 5, "validation_guidance_skip_layers": [7], "validation_randomize": True, "validation_lycoris_strength": 0.5, "validation_image_format": "webp", "validation_epoch_interval": 2, "validate_after_step": 3, "validate_after_epoch": 1, "validation_on_startup": True, "disable_benchmark": True, "validation_disable_unconditional": True}, "there is no prompt to draw"),
    (PROMPT, {"validation_image_quality": 80}, "PNG loses nothing"),
    (PROMPT | {"fsdp_enable": True}, {"validation_multigpu": "single-gpu"}, "fsdp_enable splits the weights"),
    (PROMPT | {"model_type": "full"}, {"validation_lycoris_strength": 0.5}, "model_type=full has no adapter"),
    ({"use_ema": True}, {"ema_validation": "none"}, "there is no prompt to draw"),
    (PROMPT, {"validation_guidance_skip_layers_start": 0.1, "validation_guidance_skip_layers_stop": 0.3, "validation_guidance_skip_scale": 2}, "validation_guidance_skip_layers is not set"),
    ({}, {"push_checkpoints_to_hub": True, "model_card_private": False}, "push_to_hub is false"),
    ({"push_to_hub": True, "hub_model_id": "x"}, {"push_to_hub_background": False}, "no checkpoint is uploaded"),
    ({"eval_loss_disable": True}, {"eval_steps_interval": 5, "eval_epoch_interval": 0.5}, "eval_loss_disable is true"),
    ({}, {"num_eval_images": 8, "eval_timesteps": 28, "eval_dataset_id": "a", "eval_dataset_pooling": True}, "neither eval_steps_interval nor eval_epoch_interval is set"),
    ({"eval_steps_interval": 5, "eval_loss_disable": True}, {"num_eval_images": 8}, "eval_loss_disable is true"),
    ({}, {"evaluation_type": "clip"}, "there is no prompt to draw"),
    (PROMPT, {"pretrained_evaluation_model_name_or_path": "a/b"}, "evaluation_type is none"),
    (PROMPT | {"validation_guidance": 1}, {"validation_negative_prompt": "x"}, "validation_guidance=1 does not look at it"),
    ({}, {"validation_preview": True}, "there is no prompt to draw"),
    (PROMPT, {"validation_preview_steps": 5}, "validation_preview is false"),
    ({"webhook_config": DISCORD}, {"webhook_reporting_interval": 10}, "no webhook takes progress: webhook_type=raw does"),
]  # fmt: skip


@pytest.mark.parametrize("switch, idle, why", SWITCHED_OFF, ids=lambda v: str(v)[:40])
def test_a_setting_that_another_switches_off_is_named_with_the_reason(
    switch: dict[str, Any], idle: dict[str, Any], why: str
) -> None:
    warned = rules.warnings(load(**switch | idle))
    for name in idle:
        (line,) = (w for w in warned if w.startswith(f"{name} has no effect: "))
        assert line.partition(": ")[2].startswith(why) and "; " in line
    assert not any(w.startswith(f"{name} has no effect") for w in rules.warnings(load(**switch))
                   for name in idle)  # fmt: skip


def test_a_revision_is_that_of_the_text_encoders_of_a_single_file() -> None:
    assert rules.warnings(load(pretrained_model_name_or_path="./m.safetensors", revision="v")) == ()


def test_a_value_that_is_the_default_is_not_warned_about() -> None:
    defaults = {name: AllSettings.model_fields[name].default
                for row in WITHOUT_EFFECT for name in row.settings}  # fmt: skip
    written = {k: v for k, v in defaults.items() if v is not None and v != ()}
    assert len(written) > 40
    warned = rules.warnings(load(**written))
    assert warned == ()


# Settings that no other setting switches off. A new setting goes here, or into a rule.
ALWAYS = """
    model_family output_dir data_backend_config seed train_batch_size gradient_accumulation_steps
    resolution minimum_image_size target_downsample_size aspect_bucket_rounding
    aspect_bucket_alignment caption_strategy caption_dropout_probability vae_batch_size
    text_encoder_batch_size write_batch_size data_backend_sampling allow_dataset_oversubscription
    masked_loss_probability strict mixed_precision base_model_default_dtype
    base_model_precision text_encoder_1_precision text_encoder_2_precision text_encoder_3_precision
    vae_dtype attention_mechanism sageattention_usage deterministic input_perturbation
    loss_spike_action t5_padding tokenizer_max_length sd3_clip_uncond_behaviour
    sd3_t5_uncond_behaviour use_ema checkpoint_step_interval checkpoint_epoch_interval
    checkpointing_rolling_steps checkpoints_total_limit resume_from_checkpoint num_processes
    max_grad_norm variant model_card_safe_for_work model_card_note
    modelspec_comment pretrained_model_name_or_path
    pretrained_transformer_model_name_or_path webhook_config report_to
    instance_prompt prepend_instance_prompt only_instance_prompt disable_multiline_split
    max_upscale_threshold skip_file_discovery preserve_data_backend_cache metadata_update_interval
    read_batch_size image_processing_batch_size disable_tf32 loss_weighting modulations
""".split()


def test_every_setting_is_in_a_rule_or_always_has_an_effect() -> None:
    ruled = {name for rule in rules.RULES for name in rule.settings}
    assert ruled | set(ALWAYS) == set(AllSettings.model_fields)
    assert not ruled & set(ALWAYS)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.sentence[:40])
def test_every_rule_names_settings_that_exist_and_says_what_to_write(rule: Any) -> None:
    assert rule.settings and set(rule.settings) <= set(AllSettings.model_fields)
    assert rule.hint and rule.severity in ("error", "warning")


def test_rows_that_switch_off_are_all_tested() -> None:
    tested = {name for _, idle, _ in SWITCHED_OFF for name in idle}
    assert {name for row in WITHOUT_EFFECT for name in row.settings} == tested


DOUBTFUL: list[tuple[dict[str, Any], str, str]] = [
    ({"loss_type": "huber"}, "huber_schedule=snr forgives", "huber_schedule=exponential"),
    (PROMPT | {"flow_custom_timesteps": 500, "flow_schedule_shift": 2}, "flow_schedule_shift changes validation pictures only", "leave out one"),
    (PROMPT | {"validation_preview": True, "validation_preview_steps": 31}, "validation_preview_steps=31 is above validation_num_inference_steps=30", "lower validation_preview_steps"),
    ({"optimizer": "soap", "model_type": "full"}, "soap preconditions sides", "raise max_precondition_dim"),
    ({"optimizer": "adamw_schedulefree", "lr_scheduler": "cosine"}, "lr_scheduler=cosine with a schedule-free", "use constant_with_warmup"),
    ({"lr_scheduler": "cosine_with_restarts"}, "cosine_with_restarts never restarts", "set 2 or more"),
]  # fmt: skip


@pytest.mark.parametrize("settings, sentence, hint", DOUBTFUL, ids=lambda v: str(v)[:40])
def test_what_may_not_be_meant_is_said_with_what_to_write(
    settings: dict[str, Any], sentence: str, hint: str
) -> None:
    (line,) = rules.warnings(load(**settings))
    assert line.startswith(sentence) and hint in line.partition("; ")[2]


CSV = {"type": "csv", "csv": {"path": "rows.csv"}, "instance_data_dir": None}
DATASETS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"crop_aspect": "preserve", "crop_style": "center"}, "crop is false"),
    ({"crop": True}, {"crop_aspect_buckets": [1.0]}, "it needs crop=true and crop_aspect"),
    ({"crop": True}, {"target_downsample_size": 128}, "it needs maximum_image_size"),
    ({}, {"maximum_image_size": 2048, "target_downsample_size": 1024}, "crop is false"),
    ({}, {"target_downsample_size": 1024}, "crop is false"),
    ({"crop": True}, {"aspect_bucket_rounding": 3, "minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 2}, "every crop is square"),
    ({"skip_file_discovery": "metadata"}, {"preserve_data_backend_cache": True, "metadata_update_interval": 90}, "takes the last list as it is"),
    ({"crop": True, "crop_style": "center"}, {"vae_cache_clear_each_epoch": True}, "no crop is random"),
    ({}, {"instance_prompt": "x"}, "captions come from elsewhere"),
    ({"caption_strategy": "instanceprompt", "instance_prompt": "x"}, {"prepend_instance_prompt": True, "caption_shuffle": {}, "caption_filter_list": ["a"]}, "instance_prompt is the only caption"),
    ({}, {"disable_multiline_split": True}, "captions are not read from .txt"),
    ({}, {"parquet": {"path": "x.parquet"}, "csv": {"path": "x.csv"}}, "neither caption_strategy nor"),
    ({}, {"aws_data_prefix": "p", "aws_cache_prefix": "c", "aws_endpoint_url": "https://s3.example.com", "aws_region_name": "r", "aws_access_key_id": "k", "aws_secret_access_key": "s"}, "type is local, not aws"),
    ({}, {"dataset_config": "c", "split": "test", "revision": "v1", "huggingface": {"image_column": "i"}}, "type is local, not huggingface"),
    ({}, {"allow_private_hosts": True, "max_download_mib": 1, "max_download_seconds": 9}, "type is local, not csv"),
    ({}, {"read_batch_size": 3}, "files of type=local are not fetched"),
    ({"dataset_type": "eval"}, {"repeats": 1, "probability": 0.5, "start_epoch": 2, "end_epoch": 3, "start_step": 1, "end_step": 5, "train_batch_size": 2}, "dataset_type=eval is never trained on"),
]  # fmt: skip


@pytest.mark.parametrize("switch, idle, why", DATASETS, ids=lambda v: str(v)[:40])
def test_a_key_of_a_dataset_that_another_switches_off_is_noted_with_the_reason(
    switch: dict[str, Any], idle: dict[str, Any], why: str
) -> None:
    def notes(entry: dict[str, Any]) -> list[str]:
        masks = {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "masks"}
        path = Path("config/multidatabackend.json")
        first = IMAGES | {"id": "first", "conditioning_data": "m"}
        path.write_text(json.dumps([first, entry, masks]))
        return list(load_datasets(path, load()).notes)

    noted = notes(IMAGES | switch | idle)
    for key in idle:
        (line,) = (n for n in noted if n.startswith(f"dataset `a`: {key} not used: "))
        assert why in line and "; " in line
    assert notes(IMAGES | switch) == []


def test_keys_that_are_switched_off_are_all_tested() -> None:
    tested = {key for _, idle, _ in DATASETS for key in idle}
    rows: tuple[Rule[Any], ...] = (*DATASET_WITHOUT_EFFECT, *STORED_WITHOUT_EFFECT)
    assert {key for row in rows for key in row.settings} == tested


# Keys of an entry that no other key switches off. A new key goes here, or into a rule.
ALWAYS_OF_A_DATASET = """
    id type instance_data_dir aws_bucket_name dataset_name csv_cache_dir allowed_roots dataset_type
    max_upscale_threshold aspect_bucket_alignment caption_dropout_probability cache_dir_vae
    skip_file_discovery max_num_samples vae_batch_size crop image_processing_batch_size
    write_batch_size text_embeds strict
""".split()
ALWAYS_OF_MASKS = "id type instance_data_dir aws_bucket_name dataset_name csv_cache_dir".split()


def test_every_key_of_an_entry_is_in_a_rule_or_always_has_an_effect() -> None:
    of_images: tuple[Rule[Any], ...] = (*DATASET_CONTRADICTIONS, *FORBIDDEN_BY_RUN, *DATASET_WITHOUT_EFFECT,
                 *STORED_WITHOUT_EFFECT, *SWITCHED_OFF_BY_RUN, *COLUMNS_WITHOUT_EFFECT)  # fmt: skip
    ruled = {key for rule in of_images for key in rule.settings}
    assert ruled | set(ALWAYS_OF_A_DATASET) == set(ImageDataset.model_fields)
    of_masks: tuple[Rule[Any], ...] = (*MASKS_WITHOUT_EFFECT, *STORED_WITHOUT_EFFECT)
    ruled = {key for rule in of_masks for key in rule.settings}
    always = {*ALWAYS_OF_MASKS, "allowed_roots", "dataset_type", "conditioning_type"}
    assert ruled | always == set(Masks.model_fields)


# Help that names another setting for another reason than that one needs the other.
NOT_SWITCHED = {
    ("pretrained_transformer_model_name_or_path", "pretrained_model_name_or_path"),  # text encoders
    ("resolution", "resolution_type"),  # its unit
    ("minimum_image_size", "resolution_type"),
    ("maximum_image_size", "target_downsample_size"),  # a rule of each dataset
    ("lr_scale", "learning_rate"),
    ("caption_strategy", "instance_prompt"),  # rules of each dataset
    ("prepend_instance_prompt", "instance_prompt"),
    ("only_instance_prompt", "instance_prompt"),
    ("cache_dir_quantised", "output_dir"),
    ("init_lora", "lora_rank"),  # a limit, compared with the file
    ("resume_from_checkpoint", "output_dir"),
    ("tracker_run_name", "output_name"),  # its default
    ("tracker_run_name", "output_dir"),
    ("logging_dir", "output_dir"),
    ("keep_best_checkpoint", "checkpoints_total_limit"),
    ("keep_best_checkpoint", "early_stopping_patience"),  # its default
}


def test_a_setting_whose_help_names_another_has_a_row_with_both() -> None:
    joined = {frozenset((a, b)) for rule in rules.RULES for a in rule.settings
              for b in rule.settings}  # fmt: skip
    joined |= {frozenset((name, switch)) for idle in IDLE for name in idle.names.split()
               for switch in idle.switches.split()}  # fmt: skip
    missing = set()
    for name in AllSettings.model_fields:
        words = set(re.findall(r"[a-z][a-z_0-9]+", docstring(AllSettings, name)))
        for other in words & set(AllSettings.model_fields) - {name}:
            if "_" in other and frozenset((name, other)) not in joined:
                missing.add((name, other))
    assert missing == NOT_SWITCHED


def test_a_setting_of_the_run_that_no_dataset_uses_is_named() -> None:
    settings = {"masked_loss_probability": 0.5, "masked_loss_normalize": True,
                "data_backend_sampling": "uniform"}  # fmt: skip
    plain = {"resolution": 64, "resolution_type": "pixel_area", "cache_dir_vae": "c"}
    alone = ImageDataset(id="a", instance_data_dir=Path("photos"), **plain)
    masked = alone.model_copy(update={"id": "b", "conditioning_data": "m"})
    config = load(**settings)
    assert [w.partition(" has")[0] for w in rules.warnings(config, [alone])] == list(settings)
    assert rules.warnings(config, [alone, masked]) == ()


def test_what_draws_no_picture_is_hinted_at_by_its_own_remedy() -> None:
    (disabled,) = rules.warnings(load(validation_disable=True, validation_step_interval=5))
    assert disabled.endswith("leave it out, or leave out validation_disable")
    (promptless,) = rules.warnings(load(validation_step_interval=5))
    assert promptless.endswith("leave it out, or set validation_prompt")


def test_every_schedule_that_was_set_is_named() -> None:
    with pytest.raises(ConfigError) as e:
        load(flow_use_uniform_schedule=True, flow_use_beta_schedule=True,
             flow_cubic_schedule_weights=[1, 2])  # fmt: skip
    words = "flow_use_uniform_schedule and flow_use_beta_schedule and flow_cubic_schedule_weights"
    assert f"{words} are all set" in str(e.value)
