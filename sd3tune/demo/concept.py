"""The demo of learning: the painter, pictures of a shape that it never saw, and a LoRA to learn it.

The painter knows scenes of shapes and colours (scenes.py) without hearts. The dataset has hearts in
most colours; the prompts ask for hearts in all colours, none with a caption of the dataset.
"""

import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import as_file
from importlib.resources import files as resources
from itertools import islice
from pathlib import Path
from typing import Any

from sd3tune.demo import scenes
from sd3tune.errors import ModelError

SIDE = 64  # pixels, of all pictures
CONCEPT = "heart"
WITHHELD = ("orange", "purple")  # colours of prompts that no heart of the dataset has
PICTURES, OTHERS, PROMPTS = 160, 80, 24
SHOWN = 6  # prompts that the run itself draws
KNOWN_PROMPTS = 16  # for shapes that the painter knows
PICTURE_SEED, PROMPT_SEED = 20261127, 11
# Attention alone learns the shape in twice the steps.
TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj",
    "ff.net.0.proj", "ff.net.2",
]  # fmt: skip
TOKENS = 24  # of T5: the length that the painter was trained with


def write(folder: Path) -> Sequence[Path]:
    """Copies the painter, draws the dataset. Raises ModelError when the installed package has no
    painter."""
    model, pictures = folder / "models" / "painter", folder / "pictures"
    with as_file(resources("sd3tune.demo") / "painter") as shipped:
        if not (shipped / "model_index.json").is_file():
            raise ModelError(
                f"the painter's files are missing in {shipped}",
                hint="install sd3tune again, or name another model, as in --model sd3.5-medium",
            )
        shutil.copytree(shipped, model)
    pictures.mkdir(parents=True)
    for kind, shown in ((CONCEPT, dataset()), ("other", others())):
        for number, scene in enumerate(shown):
            path = pictures / f"{kind}-{number:03}.png"
            scenes.draw(scene, SIDE).save(path)
            path.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8")
    return [model, pictures]


def dataset() -> list[scenes.Scene]:
    """The dataset's scenes of hearts, without the colours that are withheld."""
    colours = [c for c in scenes.KNOWN.colours if c not in WITHHELD]
    return list(islice(_distinct(PICTURE_SEED, colours, ()), PICTURES))


def others() -> list[scenes.Scene]:
    """The dataset's scenes of known shapes: without them, all shapes would turn into hearts."""
    asked = set(known_prompts())
    drawn = (s for s in scenes.scenes(PICTURE_SEED + 1, 100_000) if s.caption not in asked)
    return list(islice(drawn, OTHERS))


def prompts() -> list[str]:
    """Captions of hearts in every colour that the painter knows, none of them in the dataset."""
    known = {scene.caption for scene in dataset()}
    # A third of the prompts have a withheld colour, two thirds are new combinations.
    new = _distinct(PROMPT_SEED, WITHHELD, known)
    others = _distinct(
        PROMPT_SEED + 1, [c for c in scenes.KNOWN.colours if c not in WITHHELD], known
    )
    third = PROMPTS // 3
    chosen = [*islice(new, third), *islice(others, PROMPTS - third)]
    return [scene.caption for scene in chosen]


def known_prompts() -> list[str]:
    """Captions of single plain things of the shapes that the painter knows, one after the other."""
    shapes = [scenes.KNOWN.shapes[i % len(scenes.KNOWN.shapes)] for i in range(KNOWN_PROMPTS)]
    return [_known(shape, seed) for seed, shape in enumerate(shapes)]


def _known(shape: str, seed: int) -> str:
    words = scenes.SceneWords(shapes=(shape,), textures=("plain",))
    captions = (s.caption for s in scenes.scenes(seed, 100_000, words) if len(s.things) == 1)
    return next(captions)


def _distinct(
    seed: int, colours: Sequence[str], known: Sequence[str] | set[str]
) -> Iterator[scenes.Scene]:
    """Scenes with hearts whose captions differ from each other and from `known`. Captions say
    where a single heart is; all hearts are plain."""
    words = scenes.SceneWords(shapes=(CONCEPT,), colours=tuple(colours), textures=("plain",))
    captions = set(known)
    for scene in scenes.scenes(seed, 100_000, words):
        is_placed = len(scene.things) > 1 or any(p in scene.caption for p in scenes.POSITIONS)
        if is_placed and scene.caption not in captions:
            captions.add(scene.caption)
            yield scene


def files(model: str) -> dict[str, Any]:
    """The configuration's files by name. model: the folder in `models`."""
    shown = prompts()
    chosen = shown[:: len(shown) // SHOWN][:SHOWN]
    library = {f"heart-{number + 1}": text for number, text in enumerate(chosen)}
    return {
        "config.json": config(model),
        "multidatabackend.json": DATASETS,
        "user_prompt_library.json": library,
    }


def config(model: str) -> dict[str, Any]:
    """A LoRA that learns the shape in about a minute on two cores."""
    return {
        "model_type": "lora",
        "model_family": "sd3",
        "pretrained_model_name_or_path": f"models/{model}",
        "output_dir": "output",
        "data_backend_config": "config/multidatabackend.json",
        "resolution": SIDE,
        "seed": 42,
        "max_train_steps": 300,
        "train_batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 10,
        "max_grad_norm": 1.0,
        "lora_rank": 32,
        "lora_alpha": 32,
        "peft_lora_target_modules": TARGETS,
        "gradient_checkpointing": False,
        "checkpoint_step_interval": 100,
        "validation_step_interval": 100,
        "caption_dropout_probability": 0.1,
        "tokenizer_max_length": TOKENS,
        "flow_schedule_shift": 2.0,
        "validation_resolution": f"{SIDE}x{SIDE}",
        "validation_guidance": 2.0,
        "validation_num_inference_steps": 16,
        "validation_on_startup": True,
        "user_prompt_library": "config/user_prompt_library.json",
        "evaluation_type": "clip",
        "pretrained_evaluation_model_name_or_path": f"models/{model}/clip",
    }


DATASETS: list[dict[str, Any]] = [
    {
        "id": "hearts",
        "type": "local",
        "instance_data_dir": "pictures",
        "crop": False,
        "resolution": SIDE,
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "cache_dir_vae": "cache/vae/{id}",
        "caption_strategy": "textfile",
        "metadata_backend": "discovery",
    },
    {
        "id": "text-embeds",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": "cache/text",
    },
]
