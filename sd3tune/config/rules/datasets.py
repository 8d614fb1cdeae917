"""Keys of one dataset that cannot both be meant (errors), or that change nothing (warnings), and
what a dataset and the settings of the run ask of each other.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.contradictions import schedules
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings

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
    return error(
        f"{keys} instance_prompt",
        lambda d: when(d) and not (d.instance_prompt or "").strip(),
        f"{name} needs an instance_prompt",
        "add one",
    )


def needs_table(key: str, table: Literal["parquet", "csv"]) -> Rule[ImageDataset]:
    return error(
        f"{key} {table}",
        lambda d: getattr(d, key) == table and getattr(d, table) is None,
        f"{key}={table} needs a table",
        f"add {table}: {{{{path, …}}}}",
    )


def needs_hub(key: str) -> Rule[ImageDataset]:
    return error(
        f"{key} type",
        lambda d: getattr(d, key) == "huggingface" and d.type != "huggingface",
        f"{key}=huggingface needs type=huggingface",
        "change one of them",
    )


def needs_sizes(table: Literal["parquet", "csv"]) -> Rule[ImageDataset]:
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
        lambda d: d.caption_strategy == "filename" and d.type == "huggingface",
        "caption_strategy=filename needs files, type=huggingface has rows",
        "use caption_strategy=huggingface",
    ),
    error(
        "caption_strategy type",
        lambda d: d.caption_strategy == "textfile" and d.type in ("huggingface", "csv"),
        "caption_strategy=textfile needs files, type={c.type} has rows",
        "use caption_strategy={c.type}",
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
        lambda d: d.is_regularisation_data and d.dataset_type == "eval",
        "is_regularisation_data is about training, dataset_type=eval is not",
        "leave one of them out",
    ),
    error(
        "timestep_sampling_offset dataset_type",
        lambda d: d.timestep_sampling_offset and d.dataset_type == "eval",
        "timestep_sampling_offset is about training, evaluation has noise levels of its own",
        "leave it out of dataset_type=eval",
    ),
)


def fixed_caption(d: ImageDataset) -> bool:
    """Whether instance_prompt is the caption of every image."""
    return d.only_instance_prompt or d.caption_strategy == "instanceprompt"


def idle(
    keys: str, when: Callable[[ImageDataset], object], why: str, hint: str
) -> tuple[Rule[ImageDataset], ...]:
    """A row for each key, which says that it changes nothing where it is not at its default."""

    def row(key: str) -> Rule[ImageDataset]:
        default = ImageDataset.model_fields[key].default
        return Rule(
            (key,),
            "warning",
            lambda d: getattr(d, key) != default and when(d),
            f"{key} not used: {why}",
            hint,
        )

    return tuple(row(key) for key in keys.split())


WITHOUT_EFFECT = (
    *idle(
        "target_downsample_size",
        lambda d: d.crop and d.target_downsample_size and not d.maximum_image_size,
        "it needs maximum_image_size",
        "set both or neither",
    ),
    *idle("crop_aspect crop_style", lambda d: not d.crop, "crop is false", "set crop=true"),
    *idle(
        "crop_aspect_buckets",
        lambda d: not d.crop or d.crop_aspect not in ("random", "closest"),
        "it needs crop=true and crop_aspect=closest or random",
        "set both, or leave it out",
    ),
    *idle(
        "vae_cache_clear_each_epoch",
        lambda d: not d.crop or (d.crop_style != "random" and d.crop_aspect != "random"),
        "no crop is random",
        "set crop=true and crop_style=random, or leave it out",
    ),
    *idle(
        "instance_prompt",
        lambda d: not fixed_caption(d) and not d.prepend_instance_prompt,
        "captions come from elsewhere",
        "set prepend_instance_prompt=true or only_instance_prompt=true, or leave it out",
    ),
    *idle(
        "prepend_instance_prompt caption_shuffle caption_filter_list",
        fixed_caption,
        "instance_prompt is the only caption",
        "leave it out",
    ),
    *idle(
        "disable_multiline_split",
        lambda d: d.caption_strategy != "textfile" or fixed_caption(d),
        "captions are not read from .txt files",
        "leave it out",
    ),
    *idle(
        "parquet",
        lambda d: "parquet" not in (d.caption_strategy, d.metadata_backend),
        "neither caption_strategy nor metadata_backend is parquet",
        "set caption_strategy=parquet, or leave it out",
    ),
    *idle(
        "csv",
        lambda d: d.type != "csv" and "csv" not in (d.caption_strategy, d.metadata_backend),
        "neither caption_strategy nor metadata_backend is csv",
        "set caption_strategy=csv, or leave it out",
    ),
    *idle(
        "aws_data_prefix aws_endpoint_url aws_region_name aws_access_key_id aws_secret_access_key",
        lambda d: d.type != "aws",
        "type is {c.type}, not aws",
        "leave it out, or set type=aws",
    ),
    *idle(
        "dataset_config split revision huggingface",
        lambda d: d.type != "huggingface",
        "type is {c.type}, not huggingface",
        "leave it out, or set type=huggingface",
    ),
    *idle(
        "allow_private_hosts max_download_mib max_download_seconds",
        lambda d: d.type != "csv",
        "type is {c.type}, not csv",
        "leave it out, or set type=csv",
    ),
    *idle(
        "read_batch_size",
        lambda d: d.type not in ("aws", "csv"),
        "files of type={c.type} are not fetched",
        "leave it out",
    ),
    *idle(
        "repeats probability start_epoch end_epoch start_step end_step train_batch_size "
        "conditioning_data",
        lambda d: d.dataset_type == "eval",
        "dataset_type=eval is never trained on",
        "leave it out",
    ),
)
DATASET_RULES = (*SIZES, *CAPTIONS, *USE, *WITHOUT_EFFECT)

# Both sides: the settings named are the dataset's.
RUN_RULES = (
    Rule[DatasetOfRun](
        ("timestep_sampling_offset",),
        "warning",
        lambda c: schedules(c.run) if c.dataset.timestep_sampling_offset else None,
        "timestep_sampling_offset has no effect: {which[0]} draws the noise levels",
        "leave one of them out",
    ),
)
