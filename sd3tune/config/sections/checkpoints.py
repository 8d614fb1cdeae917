"""What is kept, and how a run continues."""

from sd3tune.config.fields import Count, Settings


class CheckpointSettings(Settings):
    """What is kept, and how a run continues."""

    checkpoint_step_interval: Count = 500
    """Steps between checkpoints; there is always one at the end."""
    checkpoints_total_limit: Count = 5
    """Newest checkpoints to keep."""
    resume_from_checkpoint: str = "latest"
    """`latest`, `never`, or the path of a checkpoint folder."""
