"""The dataset types: what an entry of multidatabackend.json is for (`dataset_type`), one row each.
Names are SimpleTuner's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sd3tune.tables.table import Table

Use = Literal["train", "evaluate", "mask", "keep_captions"]


@dataclass(frozen=True)
class DatasetType:
    """One dataset type.

    settings: "module:class" of its keys, their defaults and their rules. use: what is done with it.
    title: of its section in docs/reference/settings.md. called: with its article, in errors.
    storages: values of `type` that it may have, and why no others; (): all. inherited: keys that
    config.json sets for all entries. folders: key -> its default below output_dir/cache, with the
    entry's id as {id}.
    """

    name: str
    use: Use
    about: str
    settings: str
    title: str
    called: str
    aliases: tuple[str, ...] = ()
    storages: tuple[str, ...] = ()
    why_only: str = ""
    inherited: tuple[str, ...] = ()
    folders: Mapping[str, str] = field(default_factory=dict)


IMAGES, INHERITED = "sd3tune.config.datasets.image_dataset:ImageDataset", (
    "resolution", "resolution_type", "minimum_image_size", "maximum_image_size",
    "target_downsample_size", "aspect_bucket_rounding", "aspect_bucket_alignment",
    "caption_strategy", "instance_prompt", "prepend_instance_prompt", "only_instance_prompt",
    "disable_multiline_split", "max_upscale_threshold", "skip_file_discovery",
    "preserve_data_backend_cache", "metadata_update_interval", "caption_dropout_probability",
    "read_batch_size", "image_processing_batch_size", "vae_batch_size", "write_batch_size",
    "strict",
)  # fmt: skip
IMAGE = DatasetType(
    "image", "train", "images to train on", IMAGES, "images", "an image dataset",
    inherited=INHERITED, folders={"cache_dir_vae": "vae/sd3/{id}"},
)  # fmt: skip
EVAL = DatasetType(
    "eval", "evaluate", "images to measure the evaluation loss on, never trained on", IMAGES,
    "images", "an image dataset", inherited=INHERITED, folders={"cache_dir_vae": "vae/sd3/{id}"},
)  # fmt: skip
CONDITIONING = DatasetType(
    "conditioning", "mask", "a mask for each image of another dataset",
    "sd3tune.config.datasets.image_dataset:Masks", "masks", "a conditioning dataset",
    folders={"csv_cache_dir": "masks/{id}"},
)  # fmt: skip
TEXT_EMBEDS = DatasetType(
    "text_embeds", "keep_captions", "the cache of encoded captions",
    "sd3tune.config.datasets.image_dataset:TextEmbeds", "cached captions", "a text_embeds entry",
    storages=("local", "aws"), why_only="encoded captions are kept in a folder or in a bucket",
    inherited=("write_batch_size",), folders={"cache_dir": "text/sd3"},
)  # fmt: skip

NOT_FOR_SD3 = (
    "image_embeds", "conditioning_image_embeds", "distillation_cache", "caption", "grounding",
    "video", "audio",
)  # fmt: skip
DATASET_TYPES = Table(
    "a dataset type",
    (IMAGE, EVAL, CONDITIONING, TEXT_EMBEDS),
    refused=dict.fromkeys(NOT_FOR_SD3, "is not for SD3 images"),
)
