"""Keys of a dataset that were set and change nothing, and settings of the run that no dataset uses.

A row is a warning for a key or setting that has another value than its default.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.contradictions import changed, schedules
from sd3tune.config.rules.dataset_contradictions import DatasetOfRun
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings


@dataclass(frozen=True)
class RunOfDatasets:
    """The settings of a run beside all datasets it trains on."""

    run: AllSettings
    datasets: Sequence[ImageDataset]


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


DATASET_WITHOUT_EFFECT = (
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
        "repeats probability start_epoch end_epoch start_step end_step train_batch_size",
        lambda d: not d.trained,
        "dataset_type={c.dataset_type} is never trained on",
        "leave it out",
    ),
)
# A dataset beside its run: the settings named are the dataset's.
SWITCHED_OFF_BY_RUN = (
    Rule[DatasetOfRun](
        ("timestep_sampling_offset",),
        "warning",
        lambda c: schedules(c.run) if c.dataset.timestep_sampling_offset else None,
        "timestep_sampling_offset has no effect: {which[0]} draws the noise levels",
        "leave one of them out",
    ),
)


def idle_in_run(
    name: str, when: Callable[[Sequence[ImageDataset]], object], why: str, hint: str
) -> Rule[RunOfDatasets]:
    """A setting of the run that the user set and that no dataset makes use of."""

    def idle(c: RunOfDatasets) -> object:
        written = c.run.source(name).by == "user" and changed(c.run, name)
        return written and when(c.datasets)

    return Rule((name,), "warning", idle, f"{name} has no effect: {why}", hint)


RUN_WITHOUT_EFFECT = (
    *(
        idle_in_run(
            name,
            lambda datasets: not any(d.conditioning_data for d in datasets),
            "no dataset has conditioning_data",
            "leave it out, or give a dataset masks",
        )
        for name in ("masked_loss_probability", "masked_loss_normalize")
    ),
    idle_in_run(
        "data_backend_sampling",
        lambda datasets: sum(d.probability > 0 for d in datasets) == 1,
        "there is one dataset to draw from",
        "leave it out",
    ),
)
