"""Configurations that people published for SimpleTuner plan unchanged once paths are set.

The settings are theirs; prompts and names are shortened, and paths lead into the test's folder.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.commands import exit_code

TEXT: dict[str, Any] = {
    "id": "alt-embed-cache", "dataset_type": "text_embeds", "default": True, "type": "local",
    "cache_dir": "cache/text/{model_family}",
}  # fmt: skip
# SimpleTuner's own example for SD3: examples/sd3.peft-lora and its dreambooth datasets.
EXAMPLE: dict[str, Any] = {
    "aspect_bucket_rounding": 2, "attention_mechanism": "diffusers",
    "base_model_precision": "int8-quanto", "caption_dropout_probability": 0.0,
    "checkpoint_step_interval": 100, "checkpoints_total_limit": 5, "compress_disk_cache": True,
    "delete_problematic_images": "false", "disable_benchmark": False,
    "disable_bucket_pruning": True, "eval_steps_interval": 50, "evaluation_type": "none",
    "gradient_checkpointing": True, "grad_clip_method": "value", "hub_model_id": "example-sd3-lora",
    "ignore_final_epochs": True, "learning_rate": 0.0001, "lora_alpha": 128, "lora_rank": 128,
    "lora_type": "standard", "lr_scheduler": "constant", "lr_warmup_steps": 1,
    "max_grad_norm": 0.01, "max_train_steps": 100, "metadata_update_interval": 65,
    "minimum_image_size": 0, "mixed_precision": "bf16", "model_family": "sd3",
    "model_flavour": "large", "model_type": "lora", "num_eval_images": 1, "num_train_epochs": 0,
    "optimizer": "adamw_bf16", "output_dir": "output/examples/sd3.peft-lora",
    "prepend_instance_prompt": False, "push_checkpoints_to_hub": False, "push_to_hub": False,
    "quantize_via": "cpu", "report_to": "none", "resolution": 1024,
    "resolution_type": "pixel_area", "resume_from_checkpoint": "latest", "seed": 42,
    "set_grads_to_none": True, "tracker_project_name": "lora-training",
    "tracker_run_name": "example-training-run", "train_batch_size": 3, "use_ema": False,
    "vae_batch_size": 1, "validation_disable_unconditional": True, "validation_guidance": 1.0,
    "validation_guidance_rescale": 0.0, "validation_guidance_skip_layers": [7, 8, 9],
    "validation_guidance_skip_layers_start": 0.01, "validation_guidance_skip_layers_stop": 0.2,
    "validation_guidance_skip_scale": 2.8, "validation_num_inference_steps": 20,
    "validation_prompt": "a cat", "validation_resolution": "1024x1024", "validation_seed": 42,
    "validation_step_interval": 25, "validation_torch_compile": "false",
}  # fmt: skip
SUBJECT: dict[str, Any] = {
    "id": "dreambooth-subject-1024", "type": "local", "dataset_type": "image", "crop": True,
    "crop_aspect": "square", "crop_style": "random", "resolution": 1024,
    "minimum_image_size": 1024, "maximum_image_size": 1024, "target_downsample_size": 1024,
    "resolution_type": "pixel_area", "cache_dir_vae": "cache/vae/{model_family}/{id}",
    "instance_data_dir": "images", "caption_strategy": "instanceprompt",
    "instance_prompt": "the name of your subject", "metadata_backend": "discovery",
    "repeats": 1000, "is_regularisation_data": False, "vae_cache_clear_each_epoch": False,
    "start_epoch": 1, "start_step": 0,
}  # fmt: skip
# Stability AI's tutorial on fine-tuning SD3.5 Large, October 2024: what configure.py wrote,
CONFIGURED: dict[str, Any] = {
    "--resume_from_checkpoint": "latest", "--aspect_bucket_rounding": 2, "--seed": 42,
    "--minimum_image_size": 0, "--disable_benchmark": False, "--output_dir": "out",
    "--lora_type": "standard", "--lora_rank": 256, "--max_train_steps": 24000,
    "--num_train_epochs": 0, "--checkpointing_steps": 400, "--checkpoints_total_limit": 60,
    "--tracker_project_name": "sd35-training", "--tracker_run_name": "sd35-large-art-01",
    "--report_to": "tensorboard", "--model_type": "lora",
    "--pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "--model_family": "sd3", "--train_batch_size": 6, "--gradient_checkpointing": "true",
    "--caption_dropout_probability": 0.0, "--resolution_type": "pixel_area",
    "--resolution": "1024", "--validation_seed": "42", "--validation_steps": "35",
    "--validation_resolution": "1024x1024", "--validation_guidance": "7.5",
    "--validation_guidance_rescale": "0.0", "--validation_num_inference_steps": "35",
    "--validation_prompt": "k4s4, a woman", "--mixed_precision": "bf16",
    "--optimizer": "adamw_bf16", "--learning_rate": "1.05e-3", "--lr_scheduler": "polynomial",
    "--lr_warmup_steps": "2400", "--validation_torch_compile": "false",
}  # fmt: skip
# the config.json that its author wrote,
TUTORIAL: dict[str, Any] = {
    "--model_type": "lora", "--model_family": "sd3", "--resume_from_checkpoint": "latest",
    "--checkpointing_steps": 400, "--checkpoints_total_limit": 60, "--learning_rate": 1.05e-3,
    "--pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "--report_to": "tensorboard", "--tracker_project_name": "sd35-training",
    "--tracker_run_name": "art-lora-01", "--max_train_steps": 24000, "--num_train_epochs": 0,
    "--data_backend_config": "config/multidatabackend.json", "--output_dir": "out",
    "--push_to_hub": False, "--push_checkpoints_to_hub": True, "--hub_model_id": "sd35-training",
    "--resolution": 1024, "--resolution_type": "pixel", "--minimum_image_size": 1024,
    "--instance_prompt": "k4s4 ", "--validation_prompt": "k4s4, a woman",
    "--validation_guidance": 7.5, "--validation_guidance_rescale": 0.0, "--validation_steps": 200,
    "--validation_num_inference_steps": 30,
    "--validation_negative_prompt": "blurry, cropped, ugly", "--validation_seed": 42,
    "--validation_resolution": 1024, "--train_batch_size": 6, "--gradient_accumulation_steps": 1,
    "--lr_scheduler": "cosine", "--lr_warmup_steps": 2400, "--caption_dropout_probability": 0,
    "--metadata_update_interval": 65, "--vae_batch_size": 12, "--delete_unwanted_images": False,
    "--delete_problematic_images": False, "--training_scheduler_timestep_spacing": "trailing",
    "--inference_scheduler_timestep_spacing": "trailing", "--snr_gamma": 5,
    "--enable_xformers_memory_efficient_attention": True, "--gradient_checkpointing": True,
    "--allow_tf32": True, "--optimizer": "adamw_bf16", "--use_ema": False, "--ema_decay": 0.999,
    "--seed": 42, "--mixed_precision": "bf16", "--lora_rank": 768, "--lora_alpha": 768,
    "--lora_type": "standard",
}  # fmt: skip
PAINTINGS: dict[str, Any] = {
    "id": "art", "type": "local", "crop": False, "crop_aspect": "square", "crop_style": "center",
    "resolution": 1.0, "minimum_image_size": 0.25, "maximum_image_size": 1.0,
    "target_downsample_size": 1.0, "resolution_type": "area", "instance_data_dir": "images",
    "disabled": False, "skip_file_discovery": "", "caption_strategy": "filename",
    "metadata_backend": "discovery", "repeats": 5,
}  # fmt: skip
# the config.env that chooses it,
CHOOSING = """TRAINING_NUM_PROCESSES=1
TRAINING_NUM_MACHINES=1
TRAINING_DYNAMO_BACKEND='no'
MIXED_PRECISION='bf16'
export CONFIG_BACKEND="json"
export ENV="art_lora"
"""
# and its config.env, with what the tutorial says that SimpleTuner cannot read.
SHELL = """# Make DEBUG_EXTRA_ARGS empty to disable wandb.
export MODEL_TYPE='lora'
export MODEL_FAMILY='sd3'
export CONTROLNET=false
export USE_DORA=false
export RESUME_CHECKPOINT="latest"
export CHECKPOINTING_STEPS=400
export CHECKPOINTING_LIMIT=60
export LEARNING_RATE=1.05e-3 #@param {type:"number"}
export MODEL_NAME="stabilityai/stable-diffusion-3.5-large"
export DEBUG_EXTRA_ARGS="--report_to=tensorboard"
export TRACKER_PROJECT_NAME="sd35-training"
export TRACKER_RUN_NAME="art-lora-01"
export MAX_NUM_STEPS=24000
export NUM_EPOCHS=0
export BASE_DIR="."
export DATALOADER_CONFIG="${BASE_DIR}/config/multidatabackend.json"
export OUTPUT_DIR="${BASE_DIR}/models"
export PUSH_TO_HUB="false"
export PUSH_CHECKPOINTS="true"
export HUB_MODEL_NAME=$TRACKER_PROJECT_NAME
export RESOLUTION=1024
export RESOLUTION_TYPE="pixel"
export MINIMUM_RESOLUTION=$RESOLUTION
export INSTANCE_PROMPT="k4s4 "
export VALIDATION_PROMPT="k4s4, a woman"
export VALIDATION_GUIDANCE=7.5
export VALIDATION_GUIDANCE_RESCALE=0.0
export VALIDATION_STEPS=70
export VALIDATION_NUM_INFERENCE_STEPS=30
export VALIDATION_NEGATIVE_PROMPT="blurry, cropped, ugly"
export VALIDATION_SEED=42
export VALIDATION_RESOLUTION=1024
export TRAIN_BATCH_SIZE=6
export GRADIENT_ACCUMULATION_STEPS=1
export LR_SCHEDULE="cosine"
export LR_WARMUP_STEPS=2400
export CAPTION_DROPOUT_PROBABILITY=0
export METADATA_UPDATE_INTERVAL=65
export VAE_BATCH_SIZE=12
export DELETE_ERRORED_IMAGES=0
export DELETE_SMALL_IMAGES=0
export TRAINING_SCHEDULER_TIMESTEP_SPACING="trailing"
export INFERENCE_SCHEDULER_TIMESTEP_SPACING="trailing"
export MIN_SNR_GAMMA=5
export USE_XFORMERS=true
export USE_GRADIENT_CHECKPOINTING=true
export ALLOW_TF32=true
export OPTIMIZER="adamw_bf16"
export USE_EMA=false
export EMA_DECAY=0.999
export TRAINER_EXTRA_ARGS="--lora_rank=768 --lora_alpha=768"
export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --offset_noise --noise_offset=0.02"
export TRAINING_SEED=42
export MIXED_PRECISION="bf16"
export PURE_BF16=true
export TRAINING_NUM_PROCESSES=1
export TRAINING_NUM_MACHINES=1
export ACCELERATE_EXTRA_ARGS=""
export TRAINING_DYNAMO_BACKEND='no'
export TOKENIZERS_PARALLELISM=false
"""
# SimpleTuner's quickstart of SD3: the configuration, and the values that it recommends later.
QUICKSTART: dict[str, Any] = {
    "model_type": "lora", "model_family": "sd3",
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "output_dir": "outputs/models", "validation_resolution": "1024x1024,1280x768",
    "validation_guidance": 3.0, "validation_prompt": "your main test prompt here",
    "base_model_precision": "int8-quanto", "text_encoder_1_precision": "no_change",
    "text_encoder_2_precision": "no_change", "text_encoder_3_precision": "no_change",
    "optimizer": "adamw_bf16", "--validation_guidance_skip_layers": [7, 8, 9],
    "--validation_guidance_skip_layers_start": 0.01,
    "--validation_guidance_skip_layers_stop": 0.2, "--validation_guidance_skip_scale": 2.8,
    "--flow_use_uniform_schedule": True, "--flow_schedule_auto_shift": True,
    "max_train_steps": 1000,
}  # fmt: skip
CAMERA: dict[str, Any] = {
    "id": "pseudo-camera-10k-sd3", "type": "local", "crop": True, "crop_aspect": "square",
    "crop_style": "center", "resolution": 1024, "minimum_image_size": 0,
    "maximum_image_size": 1024, "target_downsample_size": 1024, "resolution_type": "pixel_area",
    "cache_dir_vae": "output/cache/vae/sd3/pseudo-camera-10k", "instance_data_dir": "images",
    "disabled": False, "skip_file_discovery": "", "caption_strategy": "filename",
    "metadata_backend": "discovery",
}  # fmt: skip
PAGE = {"_metadata": {"name": "sd3", "type": "model", "created_at": "2026-01-01T00:00:00"}}
FILES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {  # dataset, files below config
    "example": (SUBJECT, {"config.json": json.dumps(EXAMPLE)}),
    "configured": (SUBJECT, {"config.json": json.dumps(CONFIGURED)}),
    "tutorial": (PAINTINGS, {"config.env": CHOOSING, "art_lora/config.json": json.dumps(TUTORIAL)}),
    "shell": (PAINTINGS, {"config.env": SHELL}),
    "quickstart": (CAMERA, {"config.json": json.dumps(QUICKSTART)}),
    "page": (CAMERA, {"config.json": json.dumps(PAGE | {"config": QUICKSTART})}),
}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """A folder with the files of one publication and twelve images; its name."""
    monkeypatch.chdir(tmp_path)
    dataset, files = FILES[request.param]
    for name, text in files.items():
        Path("config", name).parent.mkdir(parents=True, exist_ok=True)
        Path("config", name).write_text(text)
    for folder in {Path("config"), *(Path("config", name).parent for name in files)}:
        (folder / "multidatabackend.json").write_text(json.dumps([dataset, TEXT]))
    Path("images").mkdir()
    for number in range(12):
        Image.new("RGB", (1280, 1100)).save(f"images/a picture {number}.jpg")
    return str(request.param)


@pytest.mark.parametrize("published", FILES, indirect=True)
def test_a_published_file_plans_unchanged(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["config", "check"], monkeypatch) == 0, capsys.readouterr().err
    assert exit_code(["plan", "--on", "h100-sxm"], monkeypatch) == 0, capsys.readouterr().err
    assert "sd3.5-large" in capsys.readouterr().out


@pytest.mark.parametrize("published", ["shell"], indirect=True)
def test_what_has_no_effect_is_named(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["config", "check"], monkeypatch) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    for name in ("snr_gamma", "noise_offset", "enable_xformers", "TOKENIZERS_PARALLELISM"):
        assert any(name in note for note in notes), name


@pytest.mark.parametrize("published", ["tutorial", "shell"], indirect=True)
def test_both_files_of_the_tutorial_mean_what_it_says(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("learning_rate", "lora_rank", "lora_alpha", "max_train_steps", "seed", "resolution",
            "minimum_image_size", "train_batch_size", "checkpoints_total_limit")  # fmt: skip
    assert exit_code(["config", "show", "--json", *keys], monkeypatch) == 0
    shown = {s["name"]: s["value"] for s in json.loads(capsys.readouterr().out)["settings"]}
    assert shown == {
        "learning_rate": 1.05e-3, "lora_rank": 768, "lora_alpha": 768, "max_train_steps": 24000,
        "seed": 42, "resolution": 1024, "minimum_image_size": 1024, "train_batch_size": 6,
        "checkpoints_total_limit": 60,
    }  # fmt: skip
