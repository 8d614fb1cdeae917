"""Settings of trackers that were set and change nothing."""

from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures

TRACKERS = (
    Idle(
        "tracker_project_name tracker_run_name tracker_image_layout logging_dir",
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
        lambda c: c.report_to == ("tensorboard",),
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
