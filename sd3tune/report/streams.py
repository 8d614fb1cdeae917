"""Standard output and error that never end a training run.

The reader of a log may be gone (`| tee` killed), its disk full, or the terminal closed. What cannot
be written is then dropped, and the next line is tried again. This happens below Python's buffers,
so it holds for print, click, rich's refresh thread, warnings, tracebacks and libraries alike.
Commands whose output is their result keep the ordinary streams.
"""

import contextlib
import io
import os
import sys

STANDARD = {0: os.O_RDONLY, 1: os.O_WRONLY, 2: os.O_WRONLY}  # stdin, stdout, stderr


def speaks() -> bool:
    """Whether this process prints: of the processes of one run (torchrun's RANK), the first one."""
    return os.environ.get("RANK", "0") == "0"


class Undeterred(io.FileIO):
    """A file descriptor for output. Bytes that cannot be written are dropped."""

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            written = super().write(data)  # type: ignore[arg-type]
        except OSError:  # EPIPE, ENOSPC, EIO: reader, disk or terminal are gone
            return size
        return size if written is None else written  # None: it may not block, and is full


def open_closed() -> None:
    """Gives a standard stream that was closed (`2>&-`) to /dev/null. Otherwise the next file that
    is opened gets its number, and a library's warnings are written into a checkpoint."""
    for number, mode in STANDARD.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, writer(number))


def outlive() -> None:
    """From now on a failed write to stdout or stderr is dropped. A stream that is not a file (a
    test's buffer) is kept."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # its reader is gone, or it is not a descriptor
                stream.flush()
            with contextlib.suppress(io.UnsupportedOperation):
                setattr(sys, name, writer(stream.fileno(), stream.encoding))


def writer(number: int, encoding: str = "utf-8") -> io.TextIOWrapper:
    """A text stream to a file descriptor, flushed at each line; text that cannot be written is
    dropped."""
    raw = Undeterred(number, "w", closefd=False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, encoding=encoding, errors="backslashreplace", line_buffering=True
    )
