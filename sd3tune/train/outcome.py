"""What `train` returns, and the command line prints."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    step: int
    steps: int
    loss_before: float | None  # of the base model on the fixed evaluation batches
    loss_after: float | None  # None: stopped, and whoever stopped it may not wait
    adapter: Path | None
    pictures: tuple[Path, ...]
    output: Path
    signal: int | None = None  # stopped by it, after saving
    sheet: Path | None = None  # pictures of the base model beside those of the result
    noise: int = 0  # digest of all noise drawn: equal for any number of processes, after any resume
