"""How long the run is, and how large its steps."""

from pydantic import Field

from sd3tune.config.fields import (
    CheckpointingBackend,
    CheckpointingKeep,
    Count,
    Flag,
    Settings,
    Whole,
)


class LengthSettings(Settings):
    """How long the run is, and how large its steps."""

    seed: Whole = Field(0, ge=0)
    """Seed of all random numbers. The same seed gives the same noise on every vendor's hardware."""
    max_train_steps: Whole | None = Field(None, ge=0)
    """Optimizer steps to run in total. Or set num_train_epochs."""
    num_train_epochs: Whole | None = Field(None, ge=0)
    """Passes over the data to run in total. Or set max_train_steps."""
    train_batch_size: Count | None = None
    """Images of a batch. Left out: 4, or what fits at once."""
    batch_split: Count | None = None
    """Parts in which a batch is computed, one after another: less memory, and the step is that of
    the whole batch, up to rounding. Left out: as many as make the step the fastest that fits. 1:
    the whole batch at once."""
    gradient_accumulation_steps: Count = 1
    """Batches per optimizer step."""
    gradient_checkpointing: Flag = True
    """Recompute activations in the backward pass instead of keeping them."""
    gradient_checkpointing_interval: Count = 1
    """Checkpoint every n-th block only. More than 1 is faster and takes more memory."""
    gradient_checkpointing_backend: CheckpointingBackend | None = None
    """Where the inputs of checkpointed blocks are kept: on the device (`torch`) or in host memory
    (`unsloth`). Left out: in host memory only where that is the fastest that fits."""
    gradient_checkpointing_keep: CheckpointingKeep = "auto"
    """What checkpointed blocks keep beside their inputs: nothing (`inputs`), or the outputs of
    attention (`attention`), which then is not computed again. `auto` keeps as much as fits: where
    gradient_checkpointing is left out, also everything in the last blocks. The results are the
    same bits."""
