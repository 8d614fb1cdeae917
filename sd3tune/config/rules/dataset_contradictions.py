"""Keys of a dataset that cannot both be meant, and keys that the settings of the run forbid. A row
that holds is an error. Keys of another storage: datasets/storage.py.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.tables.storages import STORAGES

LARGEST_AREA, SMALLEST_PIXEL = 20, 512  # megapixels, pixels: limits of maximum_image_size
OVERRIDE = "SIMPLETUNER_MAXIMUM_IMAGE_SIZE_OVERRIDE"


@dataclass(frozen=True)
class DatasetOfRun:
    """A dataset beside the settings of its run."""

    run: AllSettings
    dataset: ImageDataset


def error(
    keys: str, when: Callable[[ImageDataset], object], sentence: str, hint: str
) -> Rule[ImageDataset]:
    """keys: those it concerns, between blanks."""
    return Rule(tuple(keys.split()), "error", when, sentence, hint)


def too_many_megapixels(name: str) -> Rule[ImageDataset]:
    """A size in pixels where megapixels are meant."""
    return error(
        f"{name} resolution_type",
        lambda d: (
            d.resolution_type == "area"
            and (getattr(d, name) or 0) >= LARGEST_AREA
            and not os.environ.get(OVERRIDE)
        ),
        f"{name}={{c.{name}:g}} would be megapixels with resolution_type=area",
        f"use resolution_type=pixel_area for pixels, or set {OVERRIDE}=1",
    )


def too_few_pixels(name: str) -> Rule[ImageDataset]:
    """A size in megapixels where pixels are meant."""
    return error(
        f"{name} resolution_type",
        lambda d: d.resolution_type == "pixel" and 0 < (getattr(d, name) or 0) < SMALLEST_PIXEL,
        f"{name}={{c.{name}:g}} is below {SMALLEST_PIXEL} pixels",
        "use resolution_type=area for megapixels",
    )


SIZES = (
    error(
        "maximum_image_size target_downsample_size",
        lambda d: d.maximum_image_size and not d.target_downsample_size,
        "maximum_image_size={c.maximum_image_size:g} needs target_downsample_size",
        "set both or neither",
    ),
    error(
        "resolution resolution_type",
        lambda d: d.resolution_type == "pixel_area" and d.resolution != int(d.resolution),
        "resolution={c.resolution:g} must be whole pixels with resolution_type=pixel_area",
        "use resolution_type=area for megapixels",
    ),
    error(
        "resolution resolution_type",
        lambda d: d.resolution_type == "area" and d.resolution > 20,
        "resolution={c.resolution:g} would be megapixels with resolution_type=area",
        "use resolution_type=pixel_area for pixels",
    ),
    error(
        "resolution resolution_type",
        lambda d: d.resolution_type != "area" and d.resolution < 64,
        "resolution={c.resolution:g} is below 64 pixels",
        "use resolution_type=area for megapixels",
    ),
    error(
        "minimum_image_size resolution_type",
        lambda d: d.resolution_type == "area" and (d.minimum_image_size or 0) > 5,
        "minimum_image_size={c.minimum_image_size:g} would be megapixels with resolution_type=area",
        "use resolution_type=pixel_area for pixels",
    ),
    *(too_many_megapixels(name) for name in ("maximum_image_size", "target_downsample_size")),
    *(too_few_pixels(name) for name in ("maximum_image_size", "target_downsample_size")),
    error(
        "crop_aspect crop_aspect_buckets",
        lambda d: d.crop_aspect in ("random", "closest") and not d.crop_aspect_buckets,
        "crop_aspect={c.crop_aspect} needs crop_aspect_buckets",
        "add them, as [0.75, 1.0, 1.5]",
    ),
    error(
        "minimum_aspect_ratio maximum_aspect_ratio",
        lambda d: (
            d.minimum_aspect_ratio
            and d.maximum_aspect_ratio
            and d.minimum_aspect_ratio > d.maximum_aspect_ratio
        ),
        "minimum_aspect_ratio={c.minimum_aspect_ratio:g} is above "
        "maximum_aspect_ratio={c.maximum_aspect_ratio:g}",
        "swap them",
    ),
)


def needs_prompt(
    keys: str, name: str, when: Callable[[ImageDataset], object]
) -> Rule[ImageDataset]:
    """A way of making captions that needs instance_prompt. name: as the error shows it."""
    return error(
        f"{keys} instance_prompt",
        lambda d: when(d) and not (d.instance_prompt or "").strip(),
        f"{name} needs an instance_prompt",
        "add one",
    )


def needs_table(key: str, table: Literal["parquet", "csv"]) -> Rule[ImageDataset]:
    """A key whose value is the name of a table that is not there."""
    return error(
        f"{key} {table}",
        lambda d: getattr(d, key) == table and getattr(d, table) is None,
        f"{key}={table} needs a table",
        f"add {table}: {{{{path, …}}}}",
    )


def needs_hub(key: str) -> Rule[ImageDataset]:
    """A key that asks for columns of a Hugging Face dataset."""
    return error(
        f"{key} type",
        lambda d: getattr(d, key) == "huggingface" and d.type != "huggingface",
        f"{key}=huggingface needs type=huggingface",
        "change one of them",
    )


def needs_sizes(table: Literal["parquet", "csv"]) -> Rule[ImageDataset]:
    """Sizes from a table without columns for them."""

    def incomplete(d: ImageDataset) -> bool:
        columns = d.parquet if table == "parquet" else d.csv
        return d.metadata_backend == table and columns is not None and not columns.width_column

    return error(
        f"metadata_backend {table}",
        incomplete,
        f"metadata_backend={table} needs width_column and height_column",
        "add them, or use metadata_backend=discovery",
    )


CAPTIONS = (
    needs_prompt(
        "caption_strategy",
        "caption_strategy=instanceprompt",
        lambda d: d.caption_strategy == "instanceprompt",
    ),
    needs_prompt("only_instance_prompt", "only_instance_prompt", lambda d: d.only_instance_prompt),
    needs_prompt(
        "prepend_instance_prompt", "prepend_instance_prompt", lambda d: d.prepend_instance_prompt
    ),
    needs_table("caption_strategy", "parquet"),
    needs_table("caption_strategy", "csv"),
    needs_hub("caption_strategy"),
    needs_table("metadata_backend", "parquet"),
    needs_table("metadata_backend", "csv"),
    needs_hub("metadata_backend"),
    needs_sizes("parquet"),
    needs_sizes("csv"),
    error(
        "caption_strategy type",
        lambda d: (
            STORAGES[d.type].captions if d.caption_strategy in STORAGES[d.type].without else None
        ),
        "caption_strategy={c.caption_strategy} needs files, type={c.type} has rows",
        "use caption_strategy={which}",
    ),
)
USE = (
    error(
        "start_epoch end_epoch",
        lambda d: d.end_epoch is not None and d.end_epoch < d.start_epoch,
        "end_epoch={c.end_epoch} comes before start_epoch={c.start_epoch}",
        "raise end_epoch, or nothing is drawn from the dataset",
    ),
    error(
        "start_step end_step",
        lambda d: d.end_step is not None and d.end_step < d.start_step + 1,
        "end_step={c.end_step} comes before start_step={c.start_step}",
        "raise end_step, or nothing is drawn from the dataset",
    ),
    error(
        "is_regularisation_data dataset_type",
        lambda d: d.is_regularisation_data and not d.trained,
        "is_regularisation_data is about training, dataset_type={c.dataset_type} is not",
        "leave one of them out",
    ),
    error(
        "timestep_sampling_offset dataset_type",
        lambda d: d.timestep_sampling_offset and not d.trained,
        "timestep_sampling_offset is about training, evaluation has noise levels of its own",
        "leave it out of dataset_type={c.dataset_type}",
    ),
)
DATASET_CONTRADICTIONS = (*SIZES, *CAPTIONS, *USE)

# A dataset beside its run: the settings named are the dataset's.
FORBIDDEN_BY_RUN = (
    Rule[DatasetOfRun](
        ("is_regularisation_data",),
        "error",
        lambda c: c.dataset.is_regularisation_data and c.run.model_type == "full",
        "is_regularisation_data needs the model as it was, and model_type=full keeps no copy of it",
        "set model_type=lora, or leave the dataset out",
    ),
    Rule[DatasetOfRun](
        ("is_regularisation_data",),
        "error",
        lambda c: c.dataset.is_regularisation_data and c.run.fsdp_enable,
        "is_regularisation_data takes one more forward pass, and with fsdp_enable all processes "
        "must run the same number of passes",
        "leave out fsdp_enable, or the dataset",
    ),
)
