"""One output_dir, one run: a lock on `.sd3tune.lock` in it, held as long as the run lives.

The kernel holds it (flock), so a killed run leaves none behind; the file stays, and says who has
it. Only the first process of a run takes it, also when the others are on other machines.
"""

import errno
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sd3tune.data.folder import OUTPUT_MARK
from sd3tune.errors import DiskError
from sd3tune.filesystem import disk
from sd3tune.report.progress import warn

NAME = OUTPUT_MARK
WAIT_SECONDS = 2.0  # for a run that is just ending, such as the one its launcher starts again
OWNER_BYTES = 4096  # more is not ours
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # some network disks


class Claim:
    """The lock of one output_dir; `main` False: another process of the run has it."""

    def __init__(self, output: Path, *, main: bool = True) -> None:
        self.output, self.main = output, main
        self._path = output / NAME
        self._lock = FileLock(self._path, timeout=WAIT_SECONDS, fallback_to_soft=False)
        self._inode: int | None = None  # of the file that was locked; None: it cannot be
        self._folder: int | None = None  # open, so that a new folder cannot get its inode

    def take(self) -> None:
        """Raises DiskError that names the run which has the folder."""
        if not self.main:
            return
        try:
            self._lock.acquire()
        except Timeout:
            raise in_use(self.output) from None
        except (OSError, NotImplementedError) as e:
            if disk.number(e) not in NO_LOCKS and not isinstance(e, NotImplementedError):
                raise disk.refusal("lock", self._path, e) from None
            warn(f"{self.output} has no file locks; start no second run in it")
            return
        self._inode = self._path.stat().st_ino
        self._folder = os.open(self.output, os.O_RDONLY)
        with suppress(OSError):  # a full disk is told of where something is lost
            _sign(self._path)

    def renew(self) -> None:
        """Makes a folder again that was removed under the run. Raises DiskError when that cannot be
        done, or another run has taken it since."""
        if self._inode is None:
            return
        try:
            if self._path.stat().st_ino == self._inode:
                return
        except FileNotFoundError:
            if self._was_removed():
                warn(f"{self.output} was removed during training; it is made again")
        self.release()
        with disk.explained("make", self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        self.take()

    def _was_removed(self) -> bool:
        """Whether the folder is another one by now, made by whoever wrote first, or none."""
        try:
            return self._folder is None or not os.path.samestat(
                os.fstat(self._folder), self.output.stat()
            )
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Releases the lock; another run may start in the folder."""
        self._lock.release()
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


@contextmanager
def claimed(output: Path, *, main: bool = True) -> Iterator[Claim]:
    """`output` is this run's as long as the block runs. Raises DiskError."""
    claim = Claim(output, main=main)
    claim.take()
    try:
        yield claim
    finally:
        claim.release()


def in_use(output: Path) -> DiskError:
    """Another run has it."""
    owner = _owner(output / NAME)
    return DiskError(
        f"`{output}` is in use by {owner}",
        hint="wait for that run, stop it, or give this one an output_dir of its own",
    )


def _sign(path: Path) -> None:
    """The process that holds the lock, in words for an error message."""
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "start": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        if os.fstat(descriptor).st_nlink > 1:  # a second name of somebody's file
            return
        file.truncate()
        file.write(json.dumps(owner) + "\n")


def _owner(path: Path) -> str:
    """ "process 123 on host a since 2026-01-02 03:04:05+00:00 (sd3tune train)"."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            owner = json.loads(file.read(OWNER_BYTES))
        pid, host, start = int(owner["pid"]), str(owner["host"]), str(owner["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another run, which has not said its process"
    return f"process {pid} on host {host} since {start}"
