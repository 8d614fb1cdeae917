"""What is kept, and how a run continues."""

from pydantic import Field

from sd3tune.config.fields import Count, Settings, Whole


class CheckpointSettings(Settings):
    """What is kept, and how a run continues."""

    checkpoint_step_interval: Count = 500
    """Steps between checkpoints; there is always one at the end."""
    checkpoint_epoch_interval: Count | None = None
    """Epochs between checkpoints, beside those by steps."""
    checkpointing_rolling_steps: Whole = Field(0, ge=0)
    """Steps between checkpoints that are kept for a short while only; 0: none."""
    checkpoints_rolling_total_limit: Count = 1
    """Newest whole ones of those to keep."""
    checkpoints_total_limit: Count = 5
    """Newest whole checkpoints of the run to keep; nothing else is counted or removed."""
    resume_from_checkpoint: str = "latest"
    """`latest` whole one, `never`, or a checkpoint folder to go back to: its path, or its name in
    output_dir. What a run does not go on from is moved to `earlier-<n>`."""
