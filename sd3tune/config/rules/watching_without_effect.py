"""Settings of webhooks and previews that were set and change nothing."""

from sd3tune.config.rules.idle import PICTURES_ARE_DRAWN_BY, Idle, no_pictures

WATCHED = (
    Idle(
        "validation_preview",
        PICTURES_ARE_DRAWN_BY,
        no_pictures,
        "{which[0]}",
        "leave it out, or {which[1]}",
    ),
    Idle(
        "validation_preview_steps",
        "validation_preview",
        lambda c: not c.validation_preview,
        "validation_preview is false",
        "leave it out, or set validation_preview=true",
    ),
    Idle(
        "webhook_reporting_interval",
        "webhook_config",
        lambda c: not any(w.takes_progress for w in c.webhook_config),
        "no webhook takes progress: webhook_type=raw does",
        "leave it out, or add such a webhook to webhook_config",
    ),
)
