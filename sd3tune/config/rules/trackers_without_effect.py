"""Settings of trackers that were set and change nothing."""

from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures
from sd3tune.config.settings.all_settings import AllSettings


def _names_repository(c: AllSettings) -> bool:
    """Whether tracker_project_name is the repository of push_to_hub."""
    return c.push_to_hub and c.hub_model_id is None


TRACKERS = (
    Idle(
        "tracker_project_name",
        "report_to push_to_hub",
        lambda c: not c.report_to and not _names_repository(c),
        "report_to is none",
        "leave it out, or set report_to",
    ),
    Idle(
        "tracker_run_name tracker_image_layout logging_dir",
        "report_to",
        lambda c: not c.report_to,
        "report_to is none",
        "leave it out, or set report_to",
    ),
    Idle(
        "tracker_image_layout",
        f"report_to {PICTURES_ARE_DRAWN_BY}",
        lambda c: no_pictures(c) if c.report_to else None,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "tracker_project_name",
        "report_to",
        lambda c: c.report_to == ("tensorboard",) and not _names_repository(c),
        "tensorboard has no projects",
        "leave it out, or set logging_dir",
    ),
    Idle(
        "logging_dir",
        "report_to",
        lambda c: c.report_to == ("trackio",),
        "trackio keeps its data in TRACKIO_DIR",
        "leave it out",
    ),
)
