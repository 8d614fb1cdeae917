"""metrics.jsonl: one line of JSON per optimizer step. docs/reference/json.md

The window behind `loss_by_level` is read back from the file, so a resumed run writes what the
undisturbed one would have written, except for `seconds`.
"""

import json
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd3tune import disk

BINS = 10  # of the noise level: [0, 0.1), [0.1, 0.2), …
WINDOW = 100  # steps that `loss_by_level` is the mean of

Row = dict[str, Any]


class Metrics:
    """Appends to a file whose lines beyond `step` are of a run that was cut off: they go. Raises
    DiskError."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._window: deque[Row] = deque(maxlen=WINDOW)
        if path.exists():
            with disk.explained("write", path):
                os.truncate(path, self._whole(step))

    def write(
        self, step: int, numbers: Mapping[str, Any], images: Sequence[tuple[float, float]]
    ) -> None:
        """images: noise level and loss of each. A number that is not finite is written as null."""
        sums, counts = [0.0] * BINS, [0] * BINS
        for level, loss in images:
            place = min(BINS - 1, int(level * BINS))
            sums[place] += loss
            counts[place] += 1
        row = {"step": step, **{k: _plain(v) for k, v in numbers.items()}, "images": len(images)}
        row |= {"level_loss_sums": sums, "level_images": counts}
        self._window.append(row)
        row["loss_by_level"] = [self._mean(place) for place in range(BINS)]
        with disk.explained("write", self.path):
            self._append(json.dumps(row) + "\n")

    def _append(self, line: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except FileNotFoundError:  # the folder was removed; the run says so when it locks it anew
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)

    def _mean(self, place: int) -> float | None:
        count = sum(row["level_images"][place] for row in self._window)
        total = math.fsum(row["level_loss_sums"][place] for row in self._window)
        return total / count if count else None

    def _whole(self, step: int) -> int:
        """Bytes up to the first line that is torn or beyond `step`; fills the window."""
        size = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    known = int(row["step"]) <= step and len(row["level_images"]) == BINS
                except (ValueError, KeyError, TypeError):
                    break
                if not known or not line.endswith(b"\n"):
                    break
                self._window.append(row)
                size += len(line)
        return size


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
