"""Settings of publishing that were set and change nothing."""

from sd3tune.config.rules.idle import Idle

PUBLISHING = (
    Idle(
        "push_checkpoints_to_hub model_card_private",
        "push_to_hub",
        lambda c: not c.push_to_hub,
        "push_to_hub is false",
        "leave it out, or set push_to_hub",
    ),
    Idle(
        "push_to_hub_background",
        "push_to_hub push_checkpoints_to_hub",
        lambda c: not (c.push_to_hub and c.push_checkpoints_to_hub),
        "no checkpoint is uploaded",
        "leave it out, or set push_to_hub and push_checkpoints_to_hub",
    ),
)
