"""push_checkpoints_to_hub: a sink that uploads the adapter of each checkpoint.

In the background it stands behind a queue with a thread of its own (report/queued_sink.py): a hub
that is slow or gone costs training nothing, and what waits is bounded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sd3tune.errors import PublishError, Sd3tuneError
from sd3tune.publish.login import Destination
from sd3tune.publish.published_files import files_of_checkpoint
from sd3tune.publish.receipt import Receipt
from sd3tune.publish.uploading import PATIENT, Patience, upload
from sd3tune.report.events import CheckpointSaved, Event
from sd3tune.report.progress import say, waiting, warn
from sd3tune.report.queued_sink import CLOSE_SECONDS, QueuedSink
from sd3tune.report.stream import Sink

NAME = "push_checkpoints_to_hub"
MOST_WAITING = 8  # checkpoints; what does not fit is uploaded when the run has ended


class CheckpointUploads:
    """Takes CheckpointSaved, and returns when the upload has ended, however it did. destination:
    where they go, asked for once; earlier: checkpoints of an earlier part of the run."""

    name = NAME

    def __init__(
        self,
        destination: Callable[[], Destination],
        output: Path,
        earlier: Sequence[Path] = (),
        patience: Patience = PATIENT,
    ) -> None:
        self._output, self._patience = output, patience
        self._destination: Destination | None = None
        try:
            self._destination = destination()
        except Sd3tuneError as e:
            warn(f"checkpoints are uploaded when the run has ended: {e}")
        for folder in earlier:
            self._upload(folder)

    def receive(self, event: Event) -> None:
        """Uploads a checkpoint; other events are nothing to it."""
        if isinstance(event, CheckpointSaved):
            with waiting(f"uploading {event.path.name}"):
                self._upload(event.path)

    def close(self) -> None:
        """Nothing is left: each upload has ended."""

    def _upload(self, folder: Path) -> None:
        if self._destination is None:
            return
        if not (files := files_of_checkpoint(folder)):
            warn(f"{folder.name} is not uploaded: it is gone (checkpoints_total_limit)")
            return
        receipt = Receipt(self._output, self._destination.address)
        try:
            if upload(files, self._destination, receipt, folder.name, self._patience):
                say(f"uploaded {folder.name} to {self._destination.address}")
        except PublishError as e:
            warn(f"not uploaded: {e}; training goes on")


def in_background(build: Callable[[], Sink], close_seconds: float = CLOSE_SECONDS) -> QueuedSink:
    """The sink that `build` makes, behind a queue. What it has not uploaded when the run ends is
    uploaded with the result."""
    kinds: tuple[type[Event], ...] = (CheckpointSaved,)
    return QueuedSink(NAME, build, kinds, size=MOST_WAITING, close_seconds=close_seconds)
