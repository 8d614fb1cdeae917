"""Settings of the run that no dataset uses, and keys of a dataset that the run switches off.

A row is a warning for a setting or key that has another value than its default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sd3tune.config.datasets.image_dataset import ImageDataset, TextEmbeds
from sd3tune.config.rules.contradictions import changed, schedules
from sd3tune.config.rules.dataset_contradictions import DatasetOfRun
from sd3tune.config.rules.idle import no_pictures
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.decision import Provenance
from sd3tune.tables.dataset_types import IMAGE, TEXT_EMBEDS


@dataclass(frozen=True)
class EntriesOfRun:
    """The settings of a run beside all entries of its datasets file. entries: what each says, and
    who chose each key of it."""

    run: AllSettings
    entries: Sequence[tuple[Any, Mapping[str, Provenance]]]


@dataclass(frozen=True)
class RunOfDatasets:
    """The settings of a run beside all datasets it trains on."""

    run: AllSettings
    datasets: Sequence[ImageDataset]


def never_reached(key: str, length: str, last: Callable[[int], int]) -> Rule[DatasetOfRun]:
    """A step or an epoch behind the end of the run. last: the key's last value with an effect, of
    the run's length."""

    def behind(c: DatasetOfRun) -> bool:
        asked, end = getattr(c.dataset, key), getattr(c.run, length)
        default = ImageDataset.model_fields[key].default
        return bool(asked and end and asked != default and asked > last(end))

    what = "the dataset is never drawn from" if key.startswith("start") else f"{key} has no effect"
    return Rule[DatasetOfRun](
        (key,),
        "warning",
        behind,
        f"{what}: {key}={{c.dataset.{key}}} is not before the end, {length}={{c.run.{length}}}",
        f"lower {key}, or raise {length}",
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
    Rule[DatasetOfRun](
        ("conditioning_data",),
        "warning",
        lambda c: c.dataset.conditioning_data and not c.run.masked_loss_probability,
        "conditioning_data has no effect: masked_loss_probability is 0",
        "leave one of them out",
    ),
    never_reached("start_step", "max_train_steps", lambda steps: steps - 1),
    never_reached("end_step", "max_train_steps", lambda steps: steps - 1),
    never_reached("start_epoch", "num_train_epochs", lambda epochs: epochs),
    never_reached("end_epoch", "num_train_epochs", lambda epochs: epochs - 1),
)


def one_is_drawn(c: RunOfDatasets) -> bool:
    """Whether all batches come from one dataset."""
    return sum(d.probability > 0 for d in c.datasets) == 1


def idle_in_run(
    name: str, when: Callable[[RunOfDatasets], object], why: str, hint: str
) -> Rule[RunOfDatasets]:
    """A setting of the run that the user set and that no dataset makes use of."""

    def idle(c: RunOfDatasets) -> object:
        written = c.run.source(name).by == "user" and changed(c.run, name)
        return written and when(c)

    return Rule((name,), "warning", idle, f"{name} has no effect: {why}", hint)


RUN_WITHOUT_EFFECT = (
    *(
        idle_in_run(
            name,
            lambda c: not any(d.conditioning_data for d in c.datasets),
            "no dataset has conditioning_data",
            "leave it out, or give a dataset masks",
        )
        for name in ("masked_loss_probability", "masked_loss_normalize")
    ),
    idle_in_run(
        "data_backend_sampling",
        one_is_drawn,
        "there is one dataset to draw from",
        "leave it out",
    ),
    Rule[RunOfDatasets](
        ("probability",),
        "warning",
        lambda c: one_is_drawn(c) and any(d.probability not in (0, 1) for d in c.datasets),
        "probability has no effect: there is one dataset to draw from",
        "leave it out",
    ),
    *(
        idle_in_run(
            name,
            lambda c: (
                no_pictures(c.run) and not any(d.caption_dropout_probability for d in c.datasets)
            ),
            "no caption is dropped and no picture is drawn",
            "leave it out, or set caption_dropout_probability",
        )
        for name in ("sd3_clip_uncond_behaviour", "sd3_t5_uncond_behaviour")
    ),
)


def used_otherwise(name: str, c: EntriesOfRun) -> object:
    """Whether a default of all datasets does something beside that."""
    if name in ("resolution", "resolution_type"):  # of pictures without a size of their own
        return not c.run.validation_resolution and no_pictures(c.run) is None
    if name == "write_batch_size":  # of the captions' cache, where no entry describes it
        return not any(isinstance(entry, TextEmbeds) for entry, _ in c.entries)
    return name == "train_batch_size" and c.run.lr_scale


def overridden(name: str) -> Rule[EntriesOfRun]:
    """A default of all datasets of which every dataset has a value of its own."""

    def unused(c: EntriesOfRun) -> bool:
        default, source = getattr(c.run, name), c.run.source(name)
        having = [(d, sources) for d, sources in c.entries if hasattr(d, name)]
        own = [getattr(d, name) for d, sources in having if sources.get(name) not in (None, source)]
        every = 0 < len(own) == len(having) and any(value != default for value in own)
        return source.by == "user" and every and not used_otherwise(name, c)

    return Rule(
        (name,),
        "warning",
        unused,
        f"{name} has no effect: every dataset sets its own",
        "leave it out of one of the two files",
    )


DEFAULTS_WITHOUT_EFFECT = tuple(
    overridden(name)
    for name in dict.fromkeys((*IMAGE.inherited, *TEXT_EMBEDS.inherited, "train_batch_size"))
)
