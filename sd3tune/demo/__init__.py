"""`sd3tune demo DIR`: tiny models, photographs and both configuration files, ready to train."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.tables.architectures import ARCHITECTURES

MODELS = tuple(ARCHITECTURES)
MARK = ".sd3tune-demo"


@dataclass(frozen=True)
class WrittenDemo:
    paths: tuple[Path, ...]
    next_command: str


def write(folder: Path, *, model: str = "sd3.5-medium", force: bool = False) -> WrittenDemo:
    """Fills `folder`. An older demo there is kept unless `force`; anything else is refused.

    Raises ConfigError, and DataError when the photographs' package is missing.
    """
    from sd3tune.demo import photos, tiny
    from sd3tune.report.progress import say, stage
    from sd3tune.report.quiet import quiet_libraries

    _check(folder, force)
    say("importing PyTorch, diffusers and transformers")
    quiet_libraries()
    with stage("write photographs and models", 1 + len(MODELS)) as bar:
        photos.write(folder / "photos")
        bar.advance()
        for name in MODELS:
            tiny.write(folder / "models" / name, name)
            bar.advance()
    files = {
        "config.json": config(model),
        "multidatabackend.json": DATASETS,
        "user_prompt_library.json": PROMPTS,
    }
    for file, content in files.items():
        path = folder / "config" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / MARK).write_text("written by `sd3tune demo`\n", encoding="utf-8")
    paths = [folder / "models" / name for name in MODELS]
    paths += [folder / "photos", *(folder / "config" / file for file in files)]
    return WrittenDemo(tuple(paths), f"sd3tune train {folder}/config/config.json")


def _check(folder: Path, force: bool) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(
            f"`{folder}` is not a folder", hint="name a folder that does not exist yet"
        )
    if not opening.has_utf8_name(folder):
        raise ConfigError(
            f"`{folder}` is not UTF-8, and the libraries that write models take no other names",
            hint="choose another name",
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MARK).exists():
        raise ConfigError(
            f"`{folder}` is not empty and no demo", hint="name a folder that does not exist yet"
        )
    if not force:
        raise ConfigError(
            f"`{folder}` already holds a demo",
            hint=f"`sd3tune train {folder}/config/config.json` trains it; --force writes it again",
        )
    for name in ("models", "photos", "config"):
        shutil.rmtree(folder / name, ignore_errors=True)


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
