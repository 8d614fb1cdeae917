"""Where the result of a run goes, and what a model card may say of its settings and its data."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.config.rules.contradictions import repository_name
from sd3tune.config.settings.adapter import AdapterSettings
from sd3tune.config.settings.data import DataSettings
from sd3tune.config.settings.ema import EmaSettings
from sd3tune.config.settings.flow import FlowSettings
from sd3tune.config.settings.guard import GuardSettings
from sd3tune.config.settings.hardware import HardwareSettings
from sd3tune.config.settings.length import LengthSettings
from sd3tune.config.settings.model import ModelSettings
from sd3tune.config.settings.optimisation import OptimisationSettings
from sd3tune.config.settings.rollout import RolloutSettings
from sd3tune.config.settings.text import TextSettings
from sd3tune.config.settings.validation import ValidationSettings
from sd3tune.data.discover import Sample
from sd3tune.decision import Decision
from sd3tune.plan.inputs import RunInputs
from sd3tune.tables.architectures import ARCHITECTURES

# Topics that describe a training. What a topic says of this machine, of trackers, webhooks and
# other servers is published by no run: a new topic is not, until it stands here.
PUBLISHED = (
    ModelSettings, DataSettings, LengthSettings, OptimisationSettings, HardwareSettings,
    AdapterSettings, FlowSettings, RolloutSettings, GuardSettings, TextSettings, EmaSettings,
    ValidationSettings,
)  # fmt: skip
MODELS = ("pretrained_model_name_or_path", "pretrained_transformer_model_name_or_path")


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset without its paths and captions. images: without repeats. sizes: width and height
    in pixels of its buckets, the most frequent ones first."""

    name: str
    regularisation: bool
    images: int
    repeats: int
    crop: str  # crop_aspect; empty: images keep their aspect
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BaseModel:
    """The model that training began with: ids of repositories, or last names of paths."""

    name: str
    local: bool  # name is that of a folder or file
    transformer: str | None  # where the transformer is another model's
    subfolder: str


@dataclass(frozen=True)
class PublishingPlan:
    """What is uploaded, and what the model card says."""

    base: BaseModel
    push: Decision[bool]
    repository: str  # `name` or `namespace/name`; empty: the settings name none
    private: bool  # where the repository does not exist yet
    checkpoints: bool  # adapters of checkpoints are uploaded
    background: bool  # training goes on meanwhile
    safe_for_work: bool
    note: str
    comment: str | None  # for the metadata of the result; may hold {current_step}
    settings: Mapping[str, Any]  # of training, as the user set them; JSON-ready
    datasets: tuple[DatasetSummary, ...]


def publishing_plan(inputs: RunInputs) -> PublishingPlan:
    """The settings of the hub and of the model card, and a summary of the data."""
    c = inputs.config
    return PublishingPlan(
        base=_base(inputs),
        push=Decision(c.push_to_hub, c.source("push_to_hub"), _why(c)),
        repository=repository_name(c),
        private=c.model_card_private,
        checkpoints=c.push_to_hub and c.push_checkpoints_to_hub,
        background=c.push_to_hub_background,
        safe_for_work=c.model_card_safe_for_work,
        note=c.model_card_note or "",
        comment=c.modelspec_comment,
        settings=published_settings(c),
        datasets=tuple(_summary(d, inputs.samples) for d in inputs.datasets),
    )


def published_settings(c: Config) -> dict[str, Any]:
    """The settings of training that the user wrote, without paths, addresses and prompts of this
    machine's files."""
    names = [name for topic in PUBLISHED for name in topic.model_fields]
    written = [name for name in names if c.source(name).by == "user" and not _is_path(c, name)]
    values = c.to_json(written)
    shown = {name: _model(values[name]) if name in MODELS else values[name] for name in written}
    return {name: value for name, value in shown.items() if not _is_local(value)}


def model_name(model: str) -> str:
    """The id of a repository; of a path the last name."""
    return Path(model).name if model.startswith(("/", ".", "~")) or "\\" in model else model


def _base(inputs: RunInputs) -> BaseModel:
    c = inputs.config
    model, other = c.pretrained_model_name_or_path, c.pretrained_transformer_model_name_or_path
    if not model:  # made by a program: the released model of this shape
        row = ARCHITECTURES[inputs.model.name.removesuffix(" (tiny)")]
        return BaseModel(row.repository, False, None, "transformer")
    name, transformer = model_name(model), None if other is None else model_name(other)
    return BaseModel(name, name != model, transformer, c.pretrained_transformer_subfolder)


def _model(value: Any) -> Any:
    return model_name(value) if isinstance(value, str) else value


def _is_path(c: Config, name: str) -> bool:
    annotation = type(c).model_fields[name].annotation
    return annotation is Path or Path in typing.get_args(annotation)


def _is_local(value: Any) -> bool:
    """Whether a text looks like a path or an address."""
    return isinstance(value, str) and (
        value.startswith(("/", "~", "./", "../", "\\\\")) or value[1:3] == ":\\" or "://" in value
    )


def _why(c: Config) -> str:
    if not c.push_to_hub:
        return "the result stays in output_dir"
    visible = "private" if c.model_card_private else "public"
    also = ", and the adapter of each checkpoint" if c.push_checkpoints_to_hub else ""
    return f"result and model card to `{repository_name(c)}`, {visible} where it is new{also}"


def _summary(dataset: ImageDataset, samples: Sequence[Sample]) -> DatasetSummary:
    own = [s for s in samples if s.dataset == dataset.id]
    counts: dict[tuple[int, int], int] = {}
    for sample in own:
        counts[sample.geometry.bucket] = counts.get(sample.geometry.bucket, 0) + 1
    return DatasetSummary(
        name=dataset.id,
        regularisation=dataset.is_regularisation_data,
        images=len(own),
        repeats=dataset.repeats,
        crop=dataset.crop_aspect if dataset.crop else "",
        sizes=tuple(sorted(counts, key=lambda size: (-counts[size], size))),
    )
