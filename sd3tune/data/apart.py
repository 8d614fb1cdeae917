"""Decodes images in separate processes, with limits on memory and time.

This is for formats whose libraries allocate and compute whatever a file requests: 208 bytes of JPEG
2000 took 8 GiB, and the frames of a JPEG XL may be larger than its canvas. JPEG, PNG and all other
formats are decoded in this process. A decoder process (data/decoder.py) is reused for the next
image.
"""

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from sd3tune.start import command, environment

Size = tuple[int, int]

# Pixels or only the size; memory bytes, CPU seconds, length of the data.
QUESTION = struct.Struct("<?QQQ")
ANSWER = struct.Struct("<I")  # length of the JSON before the pixels
MOST_ANSWER = 2**16
MOST_DECODERS = 4  # at the same time
# Measured for the largest ordinary files, with a margin: 24 bytes per pixel (JPEG 2000 with alpha),
# 0.6 seconds per megabyte of the file, 0.1 seconds per million pixels of one colour.
BASE_BYTES, BYTES_PER_PIXEL, COPIES = 512 * 2**20, 36, 4
BASE_SECONDS, SECONDS_PER_MEGAPIXEL, SECONDS_PER_MEGABYTE = 20, 0.2, 5
PATIENCE = 10  # wall-clock seconds allowed per CPU second, for a busy machine


class Refused(Exception):
    """The file caused the failure; the message states the reason."""


class NoDecoder(Exception):
    """The machine caused the failure; the file may be fine."""


@dataclass(frozen=True)
class ProcessLimits:
    memory_bytes: int
    seconds: int

    @classmethod
    def of(cls, pixels: int, length: int) -> "ProcessLimits":
        """The limits for an image of `pixels` pixels in a file of `length` bytes."""
        seconds = pixels * SECONDS_PER_MEGAPIXEL + length * SECONDS_PER_MEGABYTE
        return cls(
            BASE_BYTES + BYTES_PER_PIXEL * pixels + COPIES * length,
            BASE_SECONDS + int(seconds / 1e6),
        )


def size(data: bytes, pixels: int) -> Size:
    """Width and height as a viewer shows them. pixels: number of pixels that the file states.
    Raises Refused and NoDecoder."""
    return _asked(data, ProcessLimits.of(pixels, len(data)), whole=False)[0]


def pixels(data: bytes, count: int) -> tuple[Size, bytes]:
    """Size, and pixels as 8-bit sRGB, row by row. count: number of pixels that the file states.
    Raises Refused and NoDecoder."""
    return _asked(data, ProcessLimits.of(count, len(data)), whole=True)


class Decoder:
    """A child process that decodes one image after another."""

    def __init__(self) -> None:
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # A new session, so that Ctrl-C does not end the decoder while this process saves.
        self._process = subprocess.Popen(
            command("sd3tune.data.decoder"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment(os.environ) | threads,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, data: bytes, limits: ProcessLimits, whole: bool) -> tuple[Size, bytes]:
        """Size of the image, and its pixels if `whole`. Raises Refused and NoDecoder; call `end`
        after that."""
        deadline = time.monotonic() + PATIENCE * limits.seconds
        question = QUESTION.pack(whole, limits.memory_bytes, limits.seconds, len(data))
        try:
            _pipe(self._process.stdin).write(question)
            _pipe(self._process.stdin).write(data)
            _pipe(self._process.stdin).flush()
            length = ANSWER.unpack(self._read(ANSWER.size, deadline))[0]
            answer: dict[str, Any] = json.loads(self._read(min(length, MOST_ANSWER), deadline))
            if "why" in answer:
                raise Refused(answer["why"])
            width, height = answer["size"]
            return (width, height), self._read(3 * width * height if whole else 0, deadline)
        except (EOFError, BrokenPipeError):
            raise self._died(limits) from None

    def _read(self, count: int, deadline: float) -> bytes:
        stream = _pipe(self._process.stdout)
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        parts, left = [], count
        while left:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise NoDecoder("its decoder gave no answer in time")
            part = os.read(stream.fileno(), min(left, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _died(self, limits: ProcessLimits) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return Refused(f"decoding it takes more than {limits.seconds} seconds")
        if code == -signal.SIGKILL:
            return NoDecoder("its decoder was killed: memory ran out")
        return Refused(f"its decoder crashed: {_named(code)}")

    def end(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _closed(pipe)


_idle: list[Decoder] = []
_turns = threading.BoundedSemaphore(MOST_DECODERS)


def _asked(data: bytes, limits: ProcessLimits, *, whole: bool) -> tuple[Size, bytes]:
    with _turns:
        decoder = _taken()
        try:
            answer = decoder.ask(data, limits, whole)
        except BaseException:
            decoder.end()  # its pipes may hold a part of an answer
            raise
        _idle.append(decoder)
        return answer


def _taken() -> Decoder:
    with suppress(IndexError):
        return _idle.pop()
    atexit.unregister(end_all)
    atexit.register(end_all)
    try:
        return Decoder()
    except OSError as e:
        raise NoDecoder(f"its decoder cannot be started: {e.strerror or e}") from None


def end_all() -> None:
    """Ends the decoders that are idle."""
    while _idle:
        _idle.pop().end()


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _closed(stream: IO[bytes] | None) -> None:
    with suppress(OSError):  # raised if data in the pipe was never read
        _pipe(stream).close()
