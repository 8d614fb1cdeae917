"""config/multidatabackend.json: the datasets of a run, and where caches go.

Global settings of the same name are a dataset's defaults. A key that is accepted has an effect, or
changes nothing but speed in the reference and is listed in IDLE; anything else is refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from sd3tune.config import checks
from sd3tune.config.files import (
    absolute_path,
    fill_in,
    project_folder,
    read_json,
    without_dashes,
)
from sd3tune.config.report import refusal, refuse_unknown, shown
from sd3tune.config.settings import Config, Count, Flag, Number, Settings, Whole
from sd3tune.errors import ConfigError

LATER = "is not supported yet"
REASONS = dict.fromkeys(
    """
    crop_aspect_buckets minimum_aspect_ratio maximum_aspect_ratio caption_shuffle
    caption_filter_list parquet csv huggingface config dataset_name split vae_cache_ondemand
    vae_cache_disable vae_cache_clear_each_epoch start_epoch start_step end_epoch end_step
    train_batch_size is_regularisation_data is_regularization_data conditioning_data
    conditioning_type disable_validation text_embeds image_embeds max_upscale_threshold
    aws_bucket_name aws_endpoint_url aws_region_name aws_access_key_id aws_secret_access_key
    aws_data_prefix csv_file csv_caption_column csv_cache_dir csv_url_column
    timestep_sampling_offset video audio override_dataset_config source_dataset_id
    """.split(),
    LATER,
)
# Taken and without effect here: they tune scans and writes that sd3tune does not do that way.
IDLE = (
    "metadata_update_interval",
    "write_batch_size",
    "read_batch_size",
    "skip_file_discovery",
    "preserve_data_backend_cache",
    "hash_filenames",
    "compress_cache",
    "image_processing_batch_size",
)
INHERITED = (
    "resolution",
    "resolution_type",
    "minimum_image_size",
    "maximum_image_size",
    "target_downsample_size",
    "aspect_bucket_rounding",
    "aspect_bucket_alignment",
    "caption_strategy",
    "vae_batch_size",
)
NAME = re.compile(r"\w[\w .-]{0,99}")  # it names a cache folder
STORAGE = ("local",)
KINDS = ("image", "text_embeds")
FOLDERS = ("instance_data_dir", "cache_dir_vae", "cache_dir")


class ImageDataset(Settings):
    """A folder of images with captions."""

    id: str = Field(min_length=1)
    """Name of the dataset, unique in the file."""
    type: Literal["local"] = "local"
    """Where the files are: a local folder."""
    dataset_type: Literal["image"] = "image"
    """What it is for: images to train on."""
    instance_data_dir: Path
    """The folder; searched with its sub-folders, never written to."""
    crop: Flag = False
    """Cut images to crop_aspect; off, they keep their aspect in the nearest bucket."""
    crop_aspect: Literal["square", "preserve"] = "square"
    """`square`, or `preserve` the aspect of each image."""
    crop_style: Annotated[
        Literal["random", "center", "corner"],
        BeforeValidator(lambda v: "center" if v == "centre" else v),
    ] = "random"
    """Where the crop is taken. `random` is fixed for each image by its name."""
    resolution: Number = Field(gt=0)
    """Training size, in the unit of resolution_type."""
    resolution_type: Literal["pixel", "area", "pixel_area"]
    """`pixel_area`: edge of a square of that area. `area`: megapixels. `pixel`: shorter edge."""
    minimum_image_size: Number | None = Field(None, ge=0)
    """Smaller images are set aside."""
    maximum_image_size: Number | None = Field(None, ge=0)
    """With target_downsample_size: crops are taken from images resized to that size first."""
    target_downsample_size: Number | None = Field(None, ge=0)
    """Size to which images are resized before they are cropped."""
    aspect_bucket_rounding: Whole = Field(2, ge=1, le=9)
    """Decimals of an aspect ratio that tell buckets apart."""
    aspect_bucket_alignment: Literal[64] = 64
    """Sides are multiples of 64 pixels for SD3."""
    caption_strategy: Annotated[
        Literal["filename", "textfile", "instanceprompt"],
        BeforeValidator(lambda v: "instanceprompt" if v == "instance_prompt" else v),
    ] = "filename"
    """The file's name, a .txt beside it, or instance_prompt."""
    instance_prompt: str | None = None
    """The caption of every image, or words put before each."""
    only_instance_prompt: Flag = False
    """instance_prompt is the only caption."""
    prepend_instance_prompt: Flag = False
    """instance_prompt is put before each caption."""
    disable_multiline_split: Flag = False
    """A .txt of several lines is one caption instead of several."""
    metadata_backend: Annotated[
        Literal["discovery"],
        BeforeValidator(lambda v: "discovery" if v in ("json", "filesystem") else v),
    ] = "discovery"
    """How sizes are found: from the files' headers."""
    cache_dir_vae: Path
    """Where encoded images are kept."""
    repeats: Whole = Field(0, ge=0)
    """Extra passes over each image per epoch."""
    probability: Literal[1] = 1
    """Share of this dataset; only 1 so far."""
    max_num_samples: Count | None = None
    """Train on a fixed subset of this many images."""
    vae_batch_size: Count = 4
    """Images encoded at a time."""

    @model_validator(mode="after")
    def fits_together(self) -> "ImageDataset":
        if self.maximum_image_size and not self.target_downsample_size:
            raise ValueError(
                f"maximum_image_size={self.maximum_image_size:g} needs target_downsample_size; "
                "set both or neither"
            )
        needs = {
            "caption_strategy=instanceprompt": self.caption_strategy == "instanceprompt",
            "only_instance_prompt": self.only_instance_prompt,
            "prepend_instance_prompt": self.prepend_instance_prompt,
        }
        for name, asked in needs.items():
            if asked and not self.instance_prompt:
                raise ValueError(f"{name} needs an instance_prompt; add one")
        if self.resolution_type == "pixel_area" and self.resolution != int(self.resolution):
            raise ValueError(
                f"resolution={self.resolution:g} must be whole pixels with resolution_type="
                "pixel_area; use resolution_type=area for megapixels"
            )
        if self.resolution_type == "area" and self.resolution > 20:
            raise ValueError(
                f"resolution={self.resolution:g} would be megapixels with resolution_type=area; "
                "use resolution_type=pixel_area for pixels"
            )
        if self.resolution_type != "area" and self.resolution < 64:
            raise ValueError(
                f"resolution={self.resolution:g} is below 64 pixels; use resolution_type=area for "
                "megapixels"
            )
        return self


class TextEmbeds(Settings):
    """Where encoded captions are kept."""

    id: str = Field(min_length=1)
    """Name of the entry, unique in the file."""
    type: Literal["local"] = "local"
    """Where the files are: a local folder."""
    dataset_type: Literal["text_embeds"] = "text_embeds"
    """Marks this entry as the cache of captions."""
    default: Flag = False
    """The cache every dataset uses."""
    cache_dir: Path
    """Its folder."""


@dataclass(frozen=True)
class Datasets:
    images: tuple[ImageDataset, ...]
    text: TextEmbeds


def load_datasets(path: Path, config: Config) -> Datasets:
    """Reads and checks the file. Raises ConfigError naming file, dataset, key and value."""
    entries = read_json(path, list, "list of datasets")
    seen: set[str] = set()
    images, texts = [], []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ConfigError(
                f"`{path}`: entry {number} is a {type(entry).__name__}, not an object",
                hint="every dataset is an object { } with an id",
            )
        entry = without_dashes(entry, path)
        if _flag(entry.pop("disabled", entry.pop("disable", False)), path, number):
            continue
        name = _named(entry, path, number, seen)
        if _kind(entry, path, name) == "text_embeds":
            texts.append(_made(TextEmbeds, entry, path, name, config))
        else:
            images.append(_made(ImageDataset, entry, path, name, config))
    _folders_exist(images, path)
    return Datasets(tuple(_some(images, path)), _text(texts, path, config))


def _flag(value: Any, path: Path, number: int) -> bool:
    try:
        return bool(checks.flag(value))
    except ValueError as e:
        raise ConfigError(
            f"`{path}`: entry {number}: `disabled={value}` {e}", hint="write true or false"
        ) from None


def _named(entry: Mapping[str, Any], path: Path, number: int, seen: set[str]) -> str:
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"`{path}`: entry {number} has no id", hint='give every dataset an "id" of its own'
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"`{path}`: the id `{shown(name)}` cannot name a folder",
            hint="use letters, digits, spaces, dots, dashes and underscores, at most 100",
        )
    if name in seen:
        raise ConfigError(f"`{path}`: two datasets have the id `{name}`", hint="rename one of them")
    seen.add(name)
    return name


def _kind(entry: Mapping[str, Any], path: Path, name: str) -> str:
    for key, known in (("type", STORAGE), ("dataset_type", KINDS)):
        value = entry.get(key, known[0])
        if value not in known:
            raise ConfigError(
                f"`{path}`: dataset `{name}`: `{key}={value}` {LATER}",
                hint=f"{key} is {' or '.join(known)} so far; disabled=true skips a dataset",
            )
    return str(entry.get("dataset_type", "image"))


def _made(kind: Any, entry: dict[str, Any], path: Path, name: str, config: Config) -> Any:
    whose = f": dataset `{name}`"
    words = {
        "id": name,
        "model_family": config.model_family,
        "output_dir": str(config.output_dir),
    }
    values = {k: fill_in(v, path, words) for k, v in entry.items() if k not in IDLE}
    values = {k: v for k, v in values.items() if v is not None}
    if kind is TextEmbeds:  # the same file often gives it keys of an image dataset
        values = {k: v for k, v in values.items() if k in kind.model_fields or k not in REASONS}
    other = ImageDataset if kind is TextEmbeds else TextEmbeds
    foreign = dict.fromkeys(other.model_fields, f"belongs to {_kind_of(other)}")
    values = refuse_unknown(values, kind, path, {}, REASONS | foreign, whose)
    values = {k: v for k, v in values.items() if k not in FOLDERS or v != ""}
    values = _defaults(kind, name, config) | values
    for key in FOLDERS:
        if isinstance(values.get(key), str):
            where = f"`{path}`{whose}"
            values[key] = str(absolute_path(values[key], project_folder(path), where, key))
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise refusal(e, kind, path, {}, values, whose) from None


def _kind_of(kind: Any) -> str:
    return "a text_embeds entry" if kind is TextEmbeds else "an image dataset"


def _defaults(kind: Any, name: str, config: Config) -> dict[str, Any]:
    cache = config.output_dir / "cache"
    if kind is TextEmbeds:
        return {"cache_dir": str(cache / "text" / "sd3")}
    inherited = {key: getattr(config, key) for key in INHERITED}
    return inherited | {"cache_dir_vae": str(cache / "vae" / "sd3" / name)}


def _folders_exist(images: list[ImageDataset], path: Path) -> None:
    missing = [d for d in images if not d.instance_data_dir.is_dir()]
    if missing:
        words = ", ".join(f"`{d.instance_data_dir}` of dataset `{d.id}`" for d in missing)
        raise ConfigError(
            f"`{path}`: instance_data_dir is no folder: {words}",
            hint=f"relative paths start at `{project_folder(path)}`",
        )


def _some(images: list[ImageDataset], path: Path) -> list[ImageDataset]:
    if not images:
        raise ConfigError(
            f"`{path}` has no enabled image dataset",
            hint='add one with "dataset_type": "image" and "instance_data_dir"',
        )
    return images


def _text(texts: list[TextEmbeds], path: Path, config: Config) -> TextEmbeds:
    defaults = [t for t in texts if t.default]
    if len(defaults) > 1:
        names = " and ".join(f"`{t.id}`" for t in defaults[:2])
        raise ConfigError(
            f"`{path}`: {names} are both the default text_embeds", hint="keep default on one"
        )
    if defaults:
        return defaults[0]
    if texts:
        return texts[0]
    return TextEmbeds(id="text-embeds", cache_dir=config.output_dir / "cache" / "text" / "sd3")
