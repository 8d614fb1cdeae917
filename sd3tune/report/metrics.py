"""metrics.jsonl: one line of JSON per optimizer step. docs/reference/json.md

The window behind `loss_by_level` is read back from the file, so a resumed run writes what the
undisturbed one would have written, except for `seconds`. Rows beyond the step that a run continues
from are written again and go; lines that are not rows are skipped and stay.
"""

import json
import math
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sd3tune.errors import DiskError
from sd3tune.filesystem import disk, drafts

FILE = "metrics.jsonl"  # in output_dir
BINS = 10  # of the noise level: [0, 0.1), [0.1, 0.2), …
WINDOW = 100  # steps that `loss_by_level` is the mean of
MAX_LINE_BYTES = 2**20
MAX_SUM, MAX_COUNT = 1e300, 2**31  # of a row: a hundred of them can be added
MAX_STRANGE_BYTES = 2**26  # before the first row
BEGINNING = b'{"step": '  # of every row

Row = dict[str, Any]


class MetricsLine(NamedTuple):
    text: bytes
    row: Row | None  # None: not a row of ours
    torn: bool  # the last line, cut off by a kill


class Metrics:
    """Appends the rows after `step`. Rows up to it stay in the file."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self._step = path, step
        self._begun = False
        rows = (line.row for line in lines(path) if line.row and line.row["step"] <= step)
        self._window = Window()
        for row in rows:
            self._window.add(row["level_loss_sums"], row["level_images"])

    def write(
        self, step: int, numbers: Mapping[str, Any], images: Sequence[tuple[float, float]]
    ) -> None:
        """images: noise level and loss of each. A number that is not finite is written as null.
        Raises CheckpointError when the disk does not take it."""
        sums, counts = [0.0] * BINS, [0] * BINS
        for level, loss in images:
            place = min(BINS - 1, int(level * BINS))
            sums[place] += loss
            counts[place] += 1
        row = {"step": step, **{k: _plain(v) for k, v in numbers.items()}, "images": len(images)}
        row |= {"level_loss_sums": sums, "level_images": counts}
        self._window.add(sums, counts)
        row["loss_by_level"] = self._window.means()
        with disk.explained("write", self.path):
            if not self._begun:  # here, since of several processes one writes
                _cut(self.path, self._step)
                self._begun = True
            self._append(json.dumps(row) + "\n")

    def _append(self, line: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except FileNotFoundError:  # the folder was removed; the run says so when it locks it anew
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)


class Window:
    """Sums of losses and numbers of images in each bin of the noise level, of the last steps."""

    def __init__(self) -> None:
        self._sums: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(BINS)]
        self._counts: list[deque[int]] = [deque(maxlen=WINDOW) for _ in range(BINS)]

    def add(self, sums: Sequence[float], counts: Sequence[int]) -> None:
        """Takes in a step; the oldest one leaves."""
        for place in range(BINS):
            self._sums[place].append(sums[place])
            self._counts[place].append(counts[place])

    def means(self) -> list[float | None]:
        """The mean loss of an image in each bin, added without an error of rounding."""
        counts = map(sum, self._counts)
        return [math.fsum(s) / n if n else None for s, n in zip(self._sums, counts, strict=True)]


def lines(path: Path) -> Iterator[MetricsLine]:
    """The lines of a file, none where it does not exist. A line that is longer than MAX_LINE_BYTES
    comes in pieces, and none of them is a row. Raises OSError."""
    if not path.exists():
        return
    whole = True  # the text begins a line
    with path.open("rb") as file:
        while text := file.readline(MAX_LINE_BYTES):
            ended = text.endswith(b"\n")
            last = not ended and len(text) < MAX_LINE_BYTES
            row = _row(text) if whole and (ended or last) else None
            yield MetricsLine(text, row, last and row is None)
            whole = ended


def refuse_strangers(path: Path) -> None:
    """Raises DiskError where something is that we did not write."""
    if not os.path.lexists(path):
        return
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        wrong = None if is_ours(path) else "does not hold metrics"
    else:
        wrong = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a regular file"
    if wrong is not None:
        raise DiskError(
            f"`{path}` {wrong}, and a run would write there",
            hint="move it away, or choose another output_dir",
        )


def is_ours(path: Path) -> bool:
    """A regular file with at least one row, or with nothing but the beginning of the first."""
    bad = size = 0
    for line in lines(path):
        if line.row is not None:
            return True
        size += len(line.text)
        if size > MAX_STRANGE_BYTES:
            return False
        begun = line.text.startswith(BEGINNING) or BEGINNING.startswith(line.text)
        bad += not (line.torn and begun)
    return bad == 0


def has_rows(path: Path, beyond: int) -> bool:
    return any(line.row and line.row["step"] > beyond for line in lines(path))


def copy_rows(path: Path, target: Path, beyond: int) -> None:
    """The rows after step `beyond` as a file of their own, on disk when this returns."""
    with target.open("xb") as file:
        file.writelines(line.text for line in lines(path)
                        if line.row and line.row["step"] > beyond)  # fmt: skip
        file.flush()
        os.fsync(file.fileno())


def _row(text: bytes) -> Row | None:
    try:
        row = json.loads(text)
        counts, sums = row["level_images"], row["level_loss_sums"]
        numbers = all(type(n) is int and 0 <= n < MAX_COUNT for n in counts)
        numbers &= all(type(x) in (int, float) and abs(x) < MAX_SUM for x in sums)  # False for NaN
        known = type(row["step"]) is int and row["step"] > 0 and len(counts) == len(sums) == BINS
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return row if numbers and known else None


def _cut(path: Path, step: int) -> None:
    """Removes the rows beyond `step` and an incomplete last line, at once or not at all. The
    remaining text ends in a line feed."""
    _remove(path, step)
    with suppress(FileNotFoundError), path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")


def _remove(path: Path, step: int) -> None:
    size, first, after = 0, None, []
    for line in lines(path):
        goes = line.torn or (line.row is not None and line.row["step"] > step)
        if goes and first is None:
            first = size
        elif not goes and first is not None:
            after.append(line.text)
        size += len(line.text)
    if first is None:
        return
    if not after:
        os.truncate(path, first)
        return
    with path.open("rb") as old:
        before = old.read(first)
    drafts.write(path, b"".join([before, *after]))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
