"""Datasets of kohya's sd-scripts: [[datasets]] with subsets, and folders named 10_dog.

Source: sd-scripts' documents config_README-en and train_README-en.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.imports import shared_rules as rules
from sd3tune.imports.foreign_file import Document, read
from sd3tune.imports.translation import Mapped, Translation

CLASS_FOLDER = re.compile(r"(\d+)_(.+)")
# Keys of datasets and subsets; on a command line and at the top of a toml they hold for all.
DATASET_KEYS = set(
    "train_data_dir reg_data_dir dataset_config resolution batch_size enable_bucket "
    "min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale caption_extension "
    "caption_extention shuffle_caption keep_tokens keep_tokens_separator caption_prefix "
    "caption_suffix caption_separator caption_dropout_rate caption_dropout_every_n_epochs "
    "caption_tag_dropout_rate color_aug flip_aug random_crop face_crop_aug_range "
    "dataset_repeats num_repeats in_json conditioning_data_dir alpha_mask masked_loss "
    "prior_loss_weight class_tokens is_reg image_dir metadata_file cache_info custom_attributes "
    "secondary_separator enable_wildcard skip_image_resolution token_warmup_min "
    "token_warmup_step".split()
)


def datasets(
    t: Translation, data: dict[str, Any], inherited: dict[str, Any], document: Document
) -> None:
    """Every subset as a dataset of ours. data: the toml document; inherited: what holds for all of
    them. Raises ConfigError."""
    folder = document.folder
    named = inherited.pop("dataset_config", None)
    if isinstance(named, str):
        path = folder / named
        if path.exists():
            inner = read(path).data
            data = inner if isinstance(inner, dict) else {}
            t.map("dataset_config", named, data_backend_config="config/multidatabackend.json")
        else:
            t.drop("dataset_config", named, "is not there: import that file by itself")
    found = data.get("general")
    general: dict[str, Any] = found if isinstance(found, dict) else {}
    listed = data.get("datasets")
    entries: list[Any] = listed if isinstance(listed, list) else []
    _top(t, inherited)
    folders = {k: inherited.pop(k, None) for k in ("train_data_dir", "reg_data_dir")}
    for entry in entries:
        _mapping(entry, document)
        own = {k: v for k, v in entry.items() if k != "subsets"}
        subsets = entry.get("subsets", [])
        for subset in subsets if isinstance(subsets, list) else []:
            _mapping(subset, document)
            _subset(t, {**inherited, **general, **own, **subset}, document)
    for key, text in folders.items():
        if text:
            t.mapped.append(Mapped(key, text, "datasets", "the folders in it"))
        for child in _class_folders(text, folder) if text else []:
            _subset(t, inherited | child | {"is_reg": key == "reg_data_dir"}, document)
    if not t.datasets:
        for key, value in inherited.items():
            t.drop_of_dataset(key, value)


def _mapping(entry: Any, document: Document) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{document.where}: a dataset is `{str(entry)[:60]}`, not a table",
            hint="write [[datasets]] and [[datasets.subsets]]",
        )


def _top(t: Translation, inherited: dict[str, Any]) -> None:
    """What of the datasets' keys is a setting of the whole run here."""
    if (size := inherited.get("resolution")) is not None:
        t.map("resolution", size, resolution=square(size))
    t.choose("sd-scripts drops no captions unless told to", caption_dropout_probability=0.0)
    if (weight := inherited.pop("prior_loss_weight", None)) is not None and weight != 1:
        t.drop("prior_loss_weight", weight, "every image counts the same")


def square(size: Any) -> int:
    """The edge of a square with the area of a resolution: 512, "768,512" or [768, 512]. Raises
    ConfigError."""
    numbers = re.findall(r"\d+", str(size))
    if not 1 <= len(numbers) <= 2 or not all(0 < int(n) < 100_000 for n in numbers):
        raise ConfigError(f"`resolution={str(size)[:60]}` is not a size", hint="write 1024 there")
    width, height = int(numbers[0]), int(numbers[-1])
    return round(math.sqrt(width * height))


def _class_folders(text: Any, folder: Path) -> list[dict[str, Any]]:
    """The folders named `10_dog` in one: repeats and class tokens. Where there is none, or the
    folder is not here, the folder itself."""
    path = Path(rules.path_of(text, folder))
    found = []
    try:
        inner = sorted(p for p in path.iterdir() if p.is_dir())
    except OSError:
        inner = []
    for child in inner:
        if match := CLASS_FOLDER.fullmatch(child.name):
            found.append({"image_dir": str(child), "num_repeats": int(match[1]),
                          "class_tokens": match[2]})  # fmt: skip
    return found or [{"image_dir": str(path)}]


def _subset(t: Translation, keys: Mapping[str, Any], document: Document) -> None:
    left = dict(keys)
    source = str(left.pop("image_dir", "") or "")
    folder = rules.path_of(source, document.folder)
    entry: dict[str, Any] = {"id": identifier(folder), "type": "local", "instance_data_dir": folder}
    mapped: dict[str, tuple[Any, str]] = {"image_dir": (source, "instance_data_dir")}

    def put(key: str, value: Any, **ours: Any) -> None:
        entry.update(ours)
        mapped[key] = (value, next(iter(ours)))

    repeats = left.pop("num_repeats", left.pop("dataset_repeats", 1))
    match = CLASS_FOLDER.fullmatch(re.split(r"[\\/]", source.rstrip("\\/"))[-1])
    if match and "num_repeats" not in keys:
        repeats = int(match[1])
    times = rules.whole(repeats, "num_repeats", document.where)
    put("num_repeats", times, repeats=max(0, times - 1))
    _captions(t, left, put, folder)
    _sizes(left, put)
    if rules.flag(left.pop("is_reg", False)):
        put("is_reg", True, is_regularisation_data=True)
        t.drop_once("is_reg", True, REGULARISATION)
    masks = left.pop("conditioning_data_dir", None)
    for key in ("masked_loss",):
        left.pop(key, None)
    if rules.flag(left.pop("alpha_mask", False)):
        t.drop("alpha_mask", True, "transparency is not read as a mask: save it as black and white "
               "pictures in a folder of masks")  # fmt: skip
    for key, value in left.items():
        t.drop_of_dataset(key, value)
    t.dataset(entry, {k: row for k, row in mapped.items() if k in keys}, keys)
    if masks:
        add_masks(t, entry, "conditioning_data_dir", rules.path_of(masks, document.folder))


REGULARISATION = (
    "differs: here the target of regularisation images is the prediction of the model without the "
    "adapter, there their own noise; delete is_regularisation_data to train on them like on others"
)


def add_masks(t: Translation, entry: dict[str, Any], key: str, folder: str) -> None:
    """A dataset of masks for `entry`, the last one that was added."""
    name = f"{entry['id']}-masks"
    entry["conditioning_data"] = name
    masks = {"id": name, "type": "local", "dataset_type": "conditioning",
             "conditioning_type": "mask", "instance_data_dir": folder}  # fmt: skip
    t.dataset(masks, {key: (folder, "instance_data_dir")})


def _captions(t: Translation, left: dict[str, Any], put: Any, folder: str) -> None:
    """Captions of files; class tokens where the folder has no such files, as in sd-scripts."""
    written = left.pop("caption_extension", left.pop("caption_extention", None))
    suffix = str(written or ".caption").lower()
    tokens = left.pop("class_tokens", None)
    if tokens and not has_captions(folder, suffix):
        put("class_tokens", tokens, caption_strategy="instanceprompt")
        put("class_tokens", tokens, instance_prompt=tokens)
    else:
        put("caption_extension", written or ".caption", caption_strategy="textfile")
        if tokens:
            t.drop("class_tokens", tokens, "captions beside the images take its place there too")
    if suffix not in (".txt", ".caption"):
        t.drop("caption_extension", suffix, "captions are read from .txt and .caption files")
    rate = left.pop("caption_dropout_rate", 0.0)
    put("caption_dropout_rate", rate, caption_dropout_probability=rate)
    kept = left.pop("keep_tokens", 0)
    if rules.flag(left.pop("shuffle_caption", False)):
        put("shuffle_caption", True, caption_shuffle=shuffled(kept))
    if (prefix := left.pop("caption_prefix", None)) and not tokens:
        put("caption_prefix", prefix, instance_prompt=prefix)
        put("caption_prefix", prefix, prepend_instance_prompt=True)


def has_captions(folder: str, suffix: str) -> bool:
    """Whether captions may lie in a folder: it holds one, or it is not here."""
    path = Path(folder)
    try:
        return not path.is_dir() or any(p.suffix.lower() == suffix for p in path.rglob("*"))
    except OSError:
        return True


def shuffled(kept: Any) -> dict[str, Any]:
    """caption_shuffle for tags that another trainer shuffles in each step: eight orders."""
    kept = int(kept) if str(kept).isdigit() else 0
    return {"count": 8, "position_start": kept, "include_original": False}


def _sizes(left: dict[str, Any], put: Any) -> None:
    if (size := left.pop("resolution", None)) is not None:
        put("resolution", size, resolution=square(size))
    if not rules.flag(left.pop("enable_bucket", True)):
        put("enable_bucket", False, crop=True, crop_style="center", crop_aspect="square")
    if rules.flag(left.pop("bucket_no_upscale", False)):
        put("bucket_no_upscale", True, max_upscale_threshold=0)
    if rules.flag(left.pop("random_crop", False)):
        put("random_crop", True, crop=True, crop_style="random")
    if (batch := left.pop("batch_size", None)) is not None:
        put("batch_size", batch, train_batch_size=batch)


def identifier(path: str) -> str:
    """An id for a dataset, from the name of its folder."""
    name = re.sub(r"[^\w .-]+", "-", re.split(r"[\\/]", path.rstrip("\\/"))[-1]).strip(" .-")
    return name[:60] if name[:1].isalnum() else f"images{'-' + name[:50] if name else ''}"
