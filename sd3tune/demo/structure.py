"""The demo for tests of structure: the three architectures with random weights, and photographs.

Every part of a run works as with the released models; the pictures are noise, on purpose.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sd3tune.demo import photos, tiny
from sd3tune.report.progress import say, stage
from sd3tune.report.quiet import quiet_libraries
from sd3tune.tables.architectures import ARCHITECTURES


def write(folder: Path) -> Sequence[Path]:
    """Writes models and photographs. Raises DataError when the photographs' package is missing."""
    say("importing PyTorch, diffusers and transformers")
    quiet_libraries()
    models = [folder / "models" / name for name in ARCHITECTURES]
    with stage("write photographs and models", 1 + len(models)) as bar:
        photos.write(folder / "photos")
        bar.advance()
        for path in models:
            tiny.write(path, path.name)
            bar.advance()
    return [*models, folder / "photos"]


def files(model: str) -> dict[str, Any]:
    """The configuration's files by name. model: the architecture that it trains."""
    return {
        "config.json": config(model),
        "multidatabackend.json": DATASETS,
        "user_prompt_library.json": PROMPTS,
    }


def config(model: str) -> dict[str, Any]:
    """The vocabulary's keys, with and without dashes, for two minutes on two cores."""
    return {
        "model_type": "lora",
        "model_family": "sd3",
        "pretrained_model_name_or_path": f"models/{model}",
        "output_dir": "output",
        "data_backend_config": "config/multidatabackend.json",
        "resolution": 128,
        "seed": 42,
        "max_train_steps": 300,
        "train_batch_size": 4,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 10,
        "max_grad_norm": 1.0,
        "lora_rank": 8,
        "lora_dropout": 0.0,
        "gradient_checkpointing": False,
        "checkpoint_step_interval": 100,
        "caption_dropout_probability": 0.1,
        "--tokenizer_max_length": 77,
        "--flow_schedule_shift": 3.0,
        "validation_resolution": "128x128,192x128",
        "validation_guidance": 3.0,
        "validation_num_inference_steps": 8,
        "user_prompt_library": "config/user_prompt_library.json",
    }


DATASETS: list[dict[str, Any]] = [
    {
        "id": "square",
        "type": "local",
        "instance_data_dir": "photos/square",
        "crop": True,
        "crop_aspect": "square",
        "crop_style": "center",
        "minimum_image_size": 0,
        "maximum_image_size": 128,
        "target_downsample_size": 128,
        "resolution_type": "pixel_area",
        "cache_dir_vae": "cache/vae/{id}",
        "caption_strategy": "filename",
        "metadata_backend": "discovery",
        "repeats": 1,
    },
    {
        "id": "aspect",
        "type": "local",
        "instance_data_dir": "photos/aspect",
        "crop": False,
        "resolution": 192,
        "resolution_type": "pixel_area",
        "cache_dir_vae": "cache/vae/{id}",
        "caption_strategy": "textfile",
        "metadata_backend": "discovery",
        "repeats": 1,
    },
    {
        "id": "text-embeds",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": "cache/text",
        "write_batch_size": 128,
    },
]
PROMPTS = {
    "cat": "a tabby cat with green eyes looking into the camera",
    "rocket": {"prompt": "a rocket lifting off at night with fire and smoke"},
}
