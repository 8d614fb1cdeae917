"""Checks the folder of a CLIP model before a library loads it: the model that scores pictures. No
torch here."""

from pathlib import Path

from sd3tune.errors import ModelError
from sd3tune.sd3 import configs, weight_files

SETTING = "pretrained_evaluation_model_name_or_path"
TOKENIZERS = ("tokenizer.json", "vocab.json")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
HINT = (
    "give a folder or repository of a CLIP model as transformers saves it (config.json, "
    "model.safetensors, tokenizer and processor), or leave it out"
)


def check(folder: Path) -> None:
    """Raises ModelError for a folder that is not a CLIP model with its tokenizer and processor, or
    whose weights are not safetensors."""
    if not (folder / "config.json").is_file():
        words = f"`{SETTING}={folder}` holds no config.json, so it is not a CLIP model"
        raise ModelError(words, hint=HINT)
    check_kind(configs.read(folder / "config.json"), str(folder))
    configs.check_part(folder, "clip")
    weight_files.files(folder, weight_files.TRANSFORMERS)
    for names in (TOKENIZERS, PROCESSORS):
        if not any((folder / name).is_file() for name in names):
            raise ModelError(f"`{SETTING}={folder}` has no {' or '.join(names)}", hint=HINT)


def check_kind(config: dict[str, object], named: str) -> None:
    """Raises ModelError where config.json is that of another model. named: folder or repository."""
    kind = config.get("model_type")
    if kind != "clip":
        words = f"`{SETTING}={named}` is a model of type {str(kind)[:40]}, not CLIP"
        raise ModelError(words, hint=HINT)
