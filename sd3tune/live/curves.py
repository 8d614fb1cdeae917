"""The numbers of every step as columns of 32-bit numbers, which a browser reads without parsing."""

import base64
import math
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from sd3tune.live.bounded import number

# As metrics.jsonl names them; a run may write further ones.
COLUMNS = (
    "step", "loss", "learning_rate", "grad_norm", "weight_norm", "seconds", "images", "tokens",
)  # fmt: skip
MAX_STEPS = 2_000_000  # later rows are not shown
MAX_STEP = 2**24  # up to here a 32-bit number holds every step
LARGEST = 3e38  # of a 32-bit number
BLOCK_ROWS = 20_000  # of one message


class Curves:
    """Columns of equal length, in the order of steps. generation: of the file's beginnings."""

    def __init__(self, generation: int = 0) -> None:
        self.columns = {name: array("f") for name in COLUMNS}
        self.generation = generation
        self.levels: list[float | None] = []  # mean loss by noise level, of the last row
        self.spikes: list[tuple[int, str]] = []  # step, and what loss_spike_action did

    def __len__(self) -> int:
        return len(self.columns["step"])

    @property
    def last_step(self) -> int:
        """Of the last row; 0 before the first."""
        steps = self.columns["step"]
        return int(steps[-1]) if steps else 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row of metrics.jsonl; a row that does not follow the last one is skipped."""
        step = row.get("step")
        if type(step) is not int or not self.last_step < step < MAX_STEP or len(self) >= MAX_STEPS:
            return
        for name, column in self.columns.items():
            value = number(row.get(name))
            fits = value is not None and abs(value) < LARGEST
            column.append(float(value) if fits and value is not None else math.nan)
        levels = row.get("loss_by_level")
        if isinstance(levels, list):
            self.levels = [number(each) for each in levels[:10]]
        if isinstance(row.get("spike"), str) and len(self.spikes) < 1000:
            self.spikes.append((step, row["spike"][:20]))

    def seconds_per_step(self, steps: int = 50) -> float | None:
        """Mean over the last `steps` steps; None before the first."""
        recent = [x for x in self.columns["seconds"][-steps:] if math.isfinite(x)]
        return sum(recent) / len(recent) if recent else None

    def block(self, start: int) -> dict[str, Any]:
        """Rows from `start` on, at most BLOCK_ROWS: each column that holds a number as base64 of
        little-endian 32-bit numbers."""
        stop = min(len(self), start + BLOCK_ROWS)
        shown = {n: c[start:stop] for n, c in self.columns.items()}
        return {
            "generation": self.generation,
            "from": start,
            "rows": stop - start,
            "columns": {n: _encoded(c) for n, c in shown.items() if not all(map(math.isnan, c))},
        }


def _encoded(column: "array[float]") -> str:
    if sys.byteorder == "big":
        column = array("f", column)
        column.byteswap()
    return base64.b64encode(column.tobytes()).decode("ascii")
