"""Trackers: programs that show the curves and pictures of a run."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sd3tune.config import values
from sd3tune.config.fields import Settings
from sd3tune.tables.trackers import TRACKERS

ALL = ("all",)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each is a tracker. Raises ValueError."""
    return names if names == ALL else tuple(TRACKERS[TRACKERS.check(name)].name for name in names)


TrackerNames = Annotated[
    tuple[str, ...], BeforeValidator(values.tracker_names), AfterValidator(_known)
]
TrackerLabel = Annotated[str, AfterValidator(values.tracker_label)]


class TrackerSettings(Settings):
    """Trackers: programs that show the curves and pictures of a run."""

    report_to: TrackerNames = ()
    """Trackers that get losses, learning rate, scores and pictures: `tensorboard`, `wandb`,
    `trackio`, several as `[tensorboard, wandb]`, `all` for those that are installed, or `none`.
    metrics.jsonl and events.jsonl are always written. docs/guides/trackers.md"""
    tracker_project_name: TrackerLabel = "sd3tune"
    """The project in which wandb and trackio list the run."""
    tracker_run_name: TrackerLabel | None = None
    """Name of the run in trackers. Left out: output_name, or the name of output_dir."""
    tracker_image_layout: Literal["gallery", "table"] = "gallery"
    """Validation pictures in trackers: side by side for each prompt (`gallery`), or as one table of
    all prompts (`table`; in TensorBoard a list beside the pictures)."""
    logging_dir: str = Field("logs", min_length=1)
    """Folder for the files of tensorboard and wandb: below output_dir, or an absolute path."""
