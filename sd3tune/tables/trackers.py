"""The trackers: programs that show the curves and pictures of a run (`report_to`), one row each."""

from dataclasses import dataclass

from sd3tune.tables.libraries import TENSORBOARD, TRACKIO, WANDB, Library
from sd3tune.tables.table import Table

UNTESTABLE = "is not supported: nothing here can test it, because it needs an account of its vendor"


@dataclass(frozen=True)
class Tracker:
    """One tracker.

    open: "module:class" of report/tracker_sink.py's Backend. shows: what a user finds there. where:
    how to look at it, as a format of `folder`, the run's logging_dir, and `project`.
    """

    name: str
    library: Library
    open: str
    shows: str
    where: str
    aliases: tuple[str, ...] = ()


TRACKERS = Table(
    "a tracker",
    (
        Tracker(
            "tensorboard", TENSORBOARD, "sd3tune.report.trackers.tensorboard_files:TensorBoard",
            "curves, pictures, settings and messages, in files of this machine",
            "tensorboard --logdir {folder}/tensorboard",
        ),
        Tracker(
            "wandb", WANDB, "sd3tune.report.trackers.wandb_run:Wandb",
            "curves, pictures and settings at wandb.ai or your own server; without an account "
            "in files of this machine",
            "the page of project {project}",
        ),
        Tracker(
            "trackio", TRACKIO, "sd3tune.report.trackers.trackio_run:Trackio",
            "curves, pictures and settings in a database of this machine",
            "trackio show --project {project}",
        ),
    ),
    {
        "swanlab": f"{UNTESTABLE}; use wandb or tensorboard",
        "comet_ml": f"{UNTESTABLE}; use wandb or tensorboard",
        "comet-ml": f"{UNTESTABLE}; use wandb or tensorboard",
        "mlflow": "is not supported; use tensorboard or trackio",
        "simpletuner": "is SimpleTuner's own page, and `sd3tune watch` shows a run without a "
        "setting; use none",
        "custom-tracker": "is not supported: it runs a Python file of yours inside the run, and a "
        "program can read events.jsonl in output_dir; use none",
    },
)  # fmt: skip
