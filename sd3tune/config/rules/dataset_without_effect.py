"""Keys of a dataset that were set and change nothing. What a dataset changes beside its run:
run_without_effect.py.

A row is a warning for a key that has another value than its default.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from sd3tune.config.datasets.image_dataset import ImageDataset, Masks, TextEmbeds
from sd3tune.config.datasets.storage import Columns, HubColumns, Stored
from sd3tune.config.fields import Settings
from sd3tune.config.rules.rule import Rule


def squares(d: ImageDataset) -> bool:
    """Whether every image is cropped to a square."""
    return d.crop and d.crop_aspect == "square"


def fixed_caption(d: ImageDataset) -> bool:
    """Whether instance_prompt is the caption of every image."""
    return d.only_instance_prompt or d.caption_strategy == "instanceprompt"


D = TypeVar("D", bound=Settings)


def idle(keys: str, when: Callable[[D], object], why: str, hint: str) -> tuple[Rule[D], ...]:
    """A row for each key, which says that it changes nothing where it is not at its default."""

    def row(key: str) -> Rule[D]:
        default = ImageDataset.model_fields[key].default
        return Rule(
            (key,),
            "warning",
            lambda d: getattr(d, key) != default and when(d),
            f"{key} not used: {why}",
            hint,
        )

    return tuple(row(key) for key in keys.split())


def uncropped(key: str) -> tuple[Rule[ImageDataset], ...]:
    """A size that images get before they are cropped."""
    return idle(
        key,
        lambda d: not d.crop and getattr(d, key),
        "crop is false",
        "set crop=true, or leave it out",
    )


def in_no_bucket(keys: str) -> tuple[Rule[Any], ...]:
    """Keys of a bucket in an entry without one."""
    hint = "leave it out, or set type=aws"
    return idle(keys, lambda d: d.type != "aws", "type is {c.type}, not aws", hint)


STORED_WITHOUT_EFFECT: tuple[Rule[Stored], ...] = (
    *in_no_bucket(
        "aws_data_prefix aws_endpoint_url aws_region_name aws_access_key_id aws_secret_access_key"
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
)
TEXT_WITHOUT_EFFECT: tuple[Rule[TextEmbeds], ...] = in_no_bucket(
    "aws_bucket_name aws_data_prefix aws_endpoint_url aws_region_name aws_access_key_id "
    "aws_secret_access_key aws_cache_prefix"
)
MASKS_WITHOUT_EFFECT: tuple[Rule[Masks], ...] = (
    *idle("csv", lambda d: d.type != "csv", "type is {c.type}, not csv", "leave it out"),
)
DATASET_WITHOUT_EFFECT: tuple[Rule[ImageDataset], ...] = (
    *in_no_bucket("aws_cache_prefix"),
    *idle(
        "target_downsample_size",
        lambda d: d.crop and d.target_downsample_size and not d.maximum_image_size,
        "it needs maximum_image_size",
        "set both or neither",
    ),
    *idle("crop_aspect crop_style", lambda d: not d.crop, "crop is false", "set crop=true"),
    *uncropped("maximum_image_size"),
    *uncropped("target_downsample_size"),
    *idle(
        "aspect_bucket_rounding",
        squares,
        "every crop is square",
        "leave it out, or set crop_aspect",
    ),
    *idle(
        "minimum_aspect_ratio maximum_aspect_ratio",
        lambda d: (
            squares(d) and (d.minimum_aspect_ratio or 0) <= 1 <= (d.maximum_aspect_ratio or 1)
        ),
        "every crop is square",
        "leave it out, or set crop_aspect",
    ),
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
        "preserve_data_backend_cache metadata_update_interval",
        lambda d: not {"metadata", "aspect"}.isdisjoint(d.skip_file_discovery),
        "skip_file_discovery takes the last list as it is",
        "leave one of them out",
    ),
    *idle(
        "repeats probability start_epoch end_epoch start_step end_step train_batch_size",
        lambda d: not d.trained,
        "dataset_type={c.dataset_type} is never trained on",
        "leave it out",
    ),
)


def columns_idle(table: str, key: str, columns: str) -> Rule[ImageDataset]:
    """Columns of a table that nobody reads, because `key` names another source."""

    def unread(d: ImageDataset) -> str | None:
        of_table: Columns | HubColumns | None = getattr(d, table)
        used = table in (d.caption_strategy, d.metadata_backend) or d.type == table
        if of_table is None or not used or getattr(d, key) == table:
            return None
        defaults = type(of_table).model_fields
        names = (n for n in columns.split() if getattr(of_table, n) != defaults[n].default)
        return next(names, None)

    sentence = f"{table}.{{which}} not used: {key} is {{c.{key}}}"
    return Rule((table,), "warning", unread, sentence, f"set {key}={table}, or leave it out")


CAPTION_COLUMNS, SIZE_COLUMNS = "caption_column fallback_caption_column", "width_column"
COLUMNS_WITHOUT_EFFECT = (
    columns_idle("parquet", "caption_strategy", CAPTION_COLUMNS),
    columns_idle("parquet", "metadata_backend", SIZE_COLUMNS),
    columns_idle("csv", "caption_strategy", CAPTION_COLUMNS),
    columns_idle("csv", "metadata_backend", SIZE_COLUMNS),
    columns_idle("huggingface", "caption_strategy", CAPTION_COLUMNS),
)
