"""push_checkpoints_to_hub: a sink that uploads the adapter of each checkpoint, on a thread of its
own. A hub that is slow or gone costs training nothing: what waits is bounded, and the newest
checkpoints are kept.
"""

import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from sd3tune.errors import PublishError
from sd3tune.publish.login import Destination
from sd3tune.publish.receipt import Receipt
from sd3tune.publish.run_folder import files_of_checkpoint
from sd3tune.publish.uploading import PATIENT, Patience, upload
from sd3tune.report.events import CheckpointSaved, Event
from sd3tune.report.progress import say, waiting, warn

MOST_WAITING = 8  # checkpoints; of more, the oldest are left out
CLOSE_SECONDS = 5.0  # for the upload that is under way when the run ends


class CheckpointUploads:
    """Takes CheckpointSaved. background False: training waits for each upload."""

    name = "push_checkpoints_to_hub"

    def __init__(
        self,
        destination: Destination,
        receipt: Receipt,
        *,
        background: bool,
        earlier: Sequence[Path] = (),
        patience: Patience = PATIENT,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        """earlier: checkpoints of an earlier part of the run, which it may not have uploaded."""
        self._destination, self._receipt, self._patience = destination, receipt, patience
        self._background, self._close_seconds = background, close_seconds
        self._waiting: deque[Path] = deque(earlier, MOST_WAITING)
        self._changed = threading.Condition()
        self._ended, self._busy = False, False
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def receive(self, event: Event) -> None:
        """Returns at once in the background; else when the upload has ended, however it did."""
        if not isinstance(event, CheckpointSaved):
            return
        with self._changed:
            if len(self._waiting) == MOST_WAITING:
                warn(f"{self._waiting[0].name} is not uploaded: {MOST_WAITING} others wait for it")
            self._waiting.append(event.path)
            self._changed.notify_all()
        if not self._background:
            with waiting(f"uploading {event.path.name}"), self._changed:
                self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Ends the thread; an upload under way gets some seconds. Names what is not uploaded."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting and not self._busy, self._close_seconds
            )
            self._ended = True
            left = [folder.name for folder in self._waiting]
            self._changed.notify_all()
        if left or self._busy:
            warn(f"not every checkpoint is uploaded ({', '.join(left) or 'one is under way'}); "
                 "the same command uploads them")  # fmt: skip

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                folder, self._busy = self._waiting.popleft(), True
            try:
                self._upload(folder)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _upload(self, folder: Path) -> None:
        files = files_of_checkpoint(folder)
        if not files:
            warn(f"{folder.name} is not uploaded: it is gone (checkpoints_total_limit)")
            return
        try:
            if upload(files, self._destination, self._receipt, folder.name, self._patience):
                say(f"uploaded {folder.name} to {self._destination.address}")
        except PublishError as e:
            warn(f"{folder.name} is not uploaded: {e}; training goes on")
