"""dataset.py OUT COUNT SEED: a project that trains the painter's transformer from scratch.

Pictures of the world without the concepts that are left out, captions in text files, and the
configuration. The model is expected beside it, in OUT/model.
"""

import json
import sys
from pathlib import Path

from sd3tune.demo import scenes

SETTINGS = {
    "model_type": "full",
    "model_family": "sd3",
    "pretrained_model_name_or_path": "model",
    "output_dir": "output",
    "data_backend_config": "config/multidatabackend.json",
    "resolution": 64,
    "seed": 1,
    "max_train_steps": 12000,
    "train_batch_size": 64,
    "optimizer": "soap",
    "optimizer_beta2": 0.98,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "lr_end": 1e-5,
    "lr_warmup_steps": 200,
    "max_grad_norm": 1.0,
    "mixed_precision": "bf16",
    "use_ema": True,
    "ema_decay": 0.999,
    "gradient_checkpointing": False,
    "caption_dropout_probability": 0.1,
    "tokenizer_max_length": 24,
    "flow_schedule_shift": 2.0,
    "attention_mechanism": "native-math",
    "checkpoint_step_interval": 500,
    "checkpoints_total_limit": 2,
    "validation_disable": True,
}
DATASETS = [
    {
        "id": "world", "type": "local", "instance_data_dir": "pictures", "crop": False,
        "resolution": 64, "resolution_type": "pixel", "cache_dir_vae": "cache/vae",
        "caption_strategy": "textfile", "metadata_backend": "discovery",
        "minimum_image_size": 0,
    },
    {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True,
     "cache_dir": "cache/text"},
]  # fmt: skip


def main(out: Path, count: int, seed: int) -> None:
    pictures = out / "pictures"
    pictures.mkdir(parents=True)
    for number, made in enumerate(scenes.scenes(seed, count)):
        scenes.draw(made, 64).save(pictures / f"{number:05}.png")
        (pictures / f"{number:05}.txt").write_text(made.caption + "\n")
    (out / "config").mkdir()
    (out / "config/config.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    (out / "config/multidatabackend.json").write_text(json.dumps(DATASETS, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
