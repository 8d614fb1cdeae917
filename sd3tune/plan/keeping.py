"""The plan of checkpoints."""

from dataclasses import dataclass

from sd3tune.config.config import Config


@dataclass(frozen=True)
class CheckpointPlan:
    """When a checkpoint is written, how many are kept, and where a run begins."""

    every_steps: int
    every_epochs: int | None  # beside those by steps
    rolling_steps: int  # between checkpoints that are kept for a short while; 0: none
    keep: int
    keep_rolling: int
    resume: str  # `latest`, `never`, or a checkpoint's path or name


def checkpoint_plan(c: Config) -> CheckpointPlan:
    """The settings of checkpoints, which need no decision."""
    return CheckpointPlan(
        every_steps=c.checkpoint_step_interval,
        every_epochs=c.checkpoint_epoch_interval,
        rolling_steps=c.checkpointing_rolling_steps,
        keep=c.checkpoints_total_limit,
        keep_rolling=c.checkpoints_rolling_total_limit,
        resume=c.resume_from_checkpoint,
    )
