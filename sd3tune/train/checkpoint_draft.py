"""The files of a checkpoint while it is written: hashed while their bytes are written, and synced
to the disk once. Large files are hashed and synced beside the writing of the next ones.

Nothing here has its final name: the caller renames the folder after `seal`.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from torch import Tensor

from sd3tune.data import safetensors_writer
from sd3tune.data.safetensors_writer import Buffer
from sd3tune.formats.manifest import DIGEST_BYTES, MANIFEST, checksum

WORKERS = 4  # threads; hashing takes twice as long as writing, and syncing waits
LARGE_BYTES = 2**22  # a smaller file is hashed before a thread would have begun
BUFFERED_BYTES = 2**20  # small tensors are written together


@dataclass(frozen=True)
class CheckpointDraft:
    """A folder that is being filled."""

    folder: Path
    workers: ThreadPoolExecutor
    digests: dict[str, "Future[str] | str"] = field(default_factory=dict)  # by name of file
    syncs: dict[str, "Future[None]"] = field(default_factory=dict)  # of large files

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """A safetensors file. The tensors must stay as they are until `seal`. Raises OSError."""
        buffers = safetensors_writer.contents(tensors)
        if sum(map(len, buffers)) < LARGE_BYTES:
            self.write_bytes(name, b"".join(buffers))
            return
        self.digests[name] = self.workers.submit(_digest, buffers)
        with (self.folder / name).open("wb", buffering=BUFFERED_BYTES) as f:
            for buffer in buffers:
                f.write(buffer)
        self.syncs[name] = self.workers.submit(sync, self.folder / name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """A small file. Raises OSError."""
        self.digests[name] = _digest([data])
        (self.folder / name).write_bytes(data)

    def seal(self) -> None:
        """Writes the manifest of every file in the folder, those that others wrote too; when it
        returns, all of them are on the disk. Raises OSError."""
        written = sorted(p for p in self.folder.iterdir() if p.is_file())
        for path in written:
            if path.name not in self.digests:
                large = path.stat().st_size >= LARGE_BYTES
                self.digests[path.name] = (
                    self.workers.submit(checksum, path) if large else checksum(path)
                )
        listed = {p.name: self._digest_of(p.name) for p in written}
        (self.folder / MANIFEST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
        small = [p for p in (*written, self.folder / MANIFEST) if p.name not in self.syncs]
        for path in small:
            _begin_sync(path)
        # Beside each other: the file system writes its journal once for several that wait.
        waiting = [self.workers.submit(sync, path) for path in (*small, self.folder)]
        for each in (*waiting, *self.syncs.values()):
            each.result()

    def _digest_of(self, name: str) -> str:
        digest = self.digests[name]
        return digest if isinstance(digest, str) else digest.result()


@contextmanager
def filling(folder: Path) -> Iterator[CheckpointDraft]:
    """Fills an empty folder."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="checkpoint") as workers:
        yield CheckpointDraft(folder, workers)


def sync(path: Path) -> None:
    """Returns when a file or folder is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _begin_sync(path: Path) -> None:
    """Has Linux begin to write the file to the disk, so that the first `sync` of several files
    waits for all of them."""
    if sys.platform == "linux":
        with path.open("rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _digest(buffers: Sequence[Buffer]) -> str:
    h = blake2b(digest_size=DIGEST_BYTES)
    for buffer in buffers:
        h.update(buffer)
    return h.hexdigest()
