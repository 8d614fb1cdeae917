"""Checkpoints: how often, how many are kept, and how a run continues."""

from pydantic import Field

from sd3tune.config.fields import Count, Settings, Whole


class CheckpointSettings(Settings):
    """Checkpoints: how often, how many are kept, and how a run continues."""

    checkpoint_step_interval: Count = 500
    """Steps between checkpoints; there is always one at the end."""
    checkpoint_epoch_interval: Count | None = None
    """Epochs between checkpoints, beside those by steps."""
    checkpointing_rolling_steps: Whole = Field(0, ge=0)
    """Steps between rolling checkpoints, which newer ones soon replace. 0 writes none."""
    checkpoints_rolling_total_limit: Count = 1
    """How many rolling checkpoints are kept: the newest complete ones."""
    checkpoints_total_limit: Count = 5
    """How many checkpoints are kept: the newest complete ones of this run. Nothing else is
    removed."""
    resume_from_checkpoint: str = "latest"
    """`latest`: the newest complete checkpoint. `never`: start afresh. Or the path of a checkpoint,
    or its name in output_dir. Newer checkpoints and older results are moved to `earlier-<n>`."""
