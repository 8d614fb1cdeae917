"""New lines of a file of JSON objects, each read once.

A run that continues from an earlier step cuts its metrics.jsonl or writes it anew. The bytes before
the place where reading ended then differ, and the file is read from its beginning. `generation`
counts these beginnings.
"""

import json
import os
from typing import Any, BinaryIO

from sd3tune.live.run_folder import RunFolder

MAX_LINE_BYTES = 4 * 2**20  # a longer line is skipped
READ_BYTES = 16 * 2**20  # at once; the rest follows at the next call
MARK_BYTES = 64  # before the place where reading ended

JsonObject = dict[str, Any]


class Tail:
    """The end of one file, which may not exist yet."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._folder, self._name = folder, name
        self.generation = 0
        self.changed = 0.0  # of the file, seconds since 1970
        self._begin()

    def _begin(self) -> None:
        self._inode: int | None = None
        self._offset = 0
        self._mark = b""
        self._inside_long_line = False

    def _restart(self) -> None:
        if self._offset:
            self.generation += 1
        self._begin()

    def read(self) -> tuple[list[JsonObject], bool]:
        """The objects that were appended since the last call, and whether there are more to read.
        When `generation` has risen, they are the first ones of the file."""
        try:
            with self._folder.opened(self._name) as file:
                return self._appended(file)
        except OSError:
            self._restart()
            return [], False

    def _appended(self, file: BinaryIO) -> tuple[list[JsonObject], bool]:
        status = os.fstat(file.fileno())
        self.changed = status.st_mtime
        if status.st_ino != self._inode or not self._is_same(file, status.st_size):
            self._restart()
        self._inode = status.st_ino
        file.seek(self._offset)
        data = file.read(READ_BYTES)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) > MAX_LINE_BYTES:  # the middle of a line that never ends
            whole, self._inside_long_line = len(data), True
            lines: list[bytes] = []
        else:
            lines = data[:whole].split(b"\n")[:-1]
            if lines and self._inside_long_line:
                lines, self._inside_long_line = lines[1:], False
        self._offset += whole
        self._mark = (self._mark + data[:whole])[-MARK_BYTES:]
        found = [value for line in lines if (value := json_object(line)) is not None]
        return found, len(data) == READ_BYTES

    def _is_same(self, file: BinaryIO, size: int) -> bool:
        if size < self._offset:
            return False
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark


def json_object(line: bytes) -> JsonObject | None:
    """The object that a line holds; None where it holds something else."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        value = json.loads(line, parse_constant=lambda word: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
