"""events.jsonl: one line of JSON per event of a run, for people and for programs that show the run.
docs/reference/events.md

The file is only appended to. A run that continues from a checkpoint repeats the steps after it: its
`run.started` line makes the earlier lines of those steps void, and `standing` leaves them out. Two
kinds of events stay out of the file: steps, which metrics.jsonl has, and the bytes of previews.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd3tune.errors import DiskError

if TYPE_CHECKING:  # every plan looks at the file; only a run writes events
    from sd3tune.report.events import Event

FILE = "events.jsonl"  # in output_dir
MAX_BYTES = 64 * 2**20  # of the file, from which messages and previews are left out
MAX_LINE_BYTES = 4 * 2**20  # a longer line is not an event
BEGINNING = b'{"time": '  # of every line
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Line = dict[str, Any]


class EventLines:
    """The sink that appends each event to a file. now: seconds since 1970, as `time.time`."""

    name = FILE

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, max_bytes: int = MAX_BYTES
    ) -> None:
        self._path, self._now, self._max = path, now, max_bytes
        self._torn = _is_torn(path)  # a kill cut off the last line

    def receive(self, event: "Event") -> None:
        """Writes a line, unless the event is a step. Raises OSError."""
        from sd3tune.report.events import MessageSaid, PreviewDrawn, StepTaken, as_json

        if isinstance(event, StepTaken):
            return
        self._path.parent.mkdir(
            parents=True, exist_ok=True
        )  # as metrics.jsonl, when it was removed
        descriptor = os.open(self._path, FLAGS, 0o666)
        with os.fdopen(descriptor, "ab") as file:
            if isinstance(event, MessageSaid | PreviewDrawn) and file.tell() > self._max:
                return
            line = json.dumps({"time": round(self._now(), 3), **as_json(event)})
            file.write(b"\n" * self._torn + line.encode() + b"\n")
        self._torn = False

    def close(self) -> None:
        """Nothing is left to write."""


def read(path: Path, start: int = 0) -> tuple[list[Line], int]:
    """The events from byte `start` on, and where the next ones will begin: that is after the last
    complete line. No file is an empty one. Lines that are not events are skipped. Raises OSError.
    """
    if not path.exists():
        return [], start
    events = []
    with path.open("rb") as file:
        file.seek(start)
        while text := file.readline(MAX_LINE_BYTES):
            if not text.endswith(b"\n") and len(text) < MAX_LINE_BYTES:
                break  # it is still being written
            start += len(text)
            if (event := _event(text)) is not None:
                events.append(event)
    return events, start


def standing(events: Iterable[Line]) -> list[Line]:
    """The events that belong to the run as it is now. `run.started` voids all events before it of
    another run, and those of later steps, which the run repeats. A run that went back to an earlier
    checkpoint continues it: the part of its id before the dash is the same."""
    kept: list[Line] = []
    run = ""
    for event in events:
        if event["event"] == "run.started":
            step, now = event["step"], str(event.get("run", "")).partition("-")[0]
            kept = [e for e in kept if e["step"] <= step] if now == run else []
            run = now
        kept.append(event)
    return kept


def refuse_strangers(path: Path) -> None:
    """Raises DiskError where something is that we did not write."""
    if not os.path.lexists(path):
        return
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            first = file.read(len(BEGINNING))
        wrong = None if BEGINNING.startswith(first) else "does not hold events"
    else:
        wrong = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a regular file"
    if wrong is not None:
        raise DiskError(
            f"`{path}` {wrong}, and a run would write there",
            hint="move it away, or choose another output_dir",
        )


def _event(text: bytes) -> Line | None:
    try:
        event = json.loads(text)
        known = isinstance(event["event"], str) and type(event["step"]) is int
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return event if known else None


def _is_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and (
                file.read(1) != b"\n"
            )  # fmt: skip
    except FileNotFoundError:
        return False
