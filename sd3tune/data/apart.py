"""Asks decoders in processes of their own, with limits on memory and time.

For formats whose libraries allocate and compute what a file tells them to, whatever its size: 208
bytes of JPEG 2000 took 8 GiB, and the frames of a JPEG XL may be larger than its canvas. JPEG, PNG
and all others are decoded in this process. A decoder (data/decoder.py) is kept for the next image.
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

QUESTION = struct.Struct("<?QQQ")  # whether pixels are wanted; bytes, CPU seconds, length of data
ANSWER = struct.Struct("<I")  # length of the JSON before the pixels
MOST_ANSWER = 2**16
MOST_DECODERS = 4  # at a time
# What the largest ordinary files take, measured, and half as much again: 24 bytes a pixel (JPEG
# 2000 with alpha), 0.6 seconds for a megabyte of the file, 0.1 for a million pixels of one colour.
BASE_BYTES, BYTES_PER_PIXEL, COPIES = 512 * 2**20, 36, 4
BASE_SECONDS, SECONDS_PER_MEGAPIXEL, SECONDS_PER_MEGABYTE = 20, 0.2, 5
PATIENCE = 10  # seconds of the clock to a second of the CPU, on a machine with much else to do


class Refused(Exception):
    """The file is at fault; the text says why."""


class NoDecoder(Exception):
    """The machine is at fault."""


@dataclass(frozen=True)
class ProcessLimits:
    memory_bytes: int
    seconds: int

    @classmethod
    def of(cls, pixels: int, length: int) -> "ProcessLimits":
        """For an image of `pixels` in a file of `length` bytes."""
        seconds = pixels * SECONDS_PER_MEGAPIXEL + length * SECONDS_PER_MEGABYTE
        return cls(
            BASE_BYTES + BYTES_PER_PIXEL * pixels + COPIES * length,
            BASE_SECONDS + int(seconds / 1e6),
        )


def size(data: bytes, pixels: int) -> Size:
    """Width and height as a viewer shows them. pixels: as the file says. Raises Refused and
    NoDecoder."""
    return _asked(data, ProcessLimits.of(pixels, len(data)), whole=False)[0]


def pixels(data: bytes, count: int) -> tuple[Size, bytes]:
    """Its size, and 8-bit sRGB row by row. Raises Refused and NoDecoder."""
    return _asked(data, ProcessLimits.of(count, len(data)), whole=True)


class Decoder:
    """A process that decodes one image after the other."""

    def __init__(self) -> None:
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # A session of its own: Ctrl-C is for us, who may want to save first.
        self._process = subprocess.Popen(
            command("sd3tune.data.decoder"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment(os.environ) | threads,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, data: bytes, limits: ProcessLimits, whole: bool) -> tuple[Size, bytes]:
        """Its size, and its pixels if `whole`. Raises Refused and NoDecoder; then it is to be
        ended."""
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
                raise NoDecoder("its decoder does not answer")
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
        return Refused(f"its decoder broke down: {_named(code)}")

    def end(self) -> None:
        """Whatever it is doing."""
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
            decoder.end()  # what is left in it, or in its pipes, is nobody's answer
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
    """Ends the decoders that wait for an image."""
    while _idle:
        _idle.pop().end()


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _closed(stream: IO[bytes] | None) -> None:
    with suppress(OSError):  # what was not yet sent to it
        _pipe(stream).close()
