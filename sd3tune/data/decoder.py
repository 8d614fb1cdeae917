"""The child process of data/apart.py: decodes images from stdin, within the limits sent with
each."""

import io
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from sd3tune.data import headers, pixels
from sd3tune.data.apart import ANSWER, MOST_ANSWER, QUESTION

STRIP_PIXELS = 2**20
OWN_BYTES = 2**30  # assumed memory of this process where /proc does not state it
MOST_WORDS = MOST_ANSWER // 16


def main() -> None:
    # Only answers may go to the pipe: output of a library would corrupt them.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(OSError):  # when memory runs out, the kernel kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    headers.formats()
    own = _mapped_bytes()
    while question := sys.stdin.buffer.read(QUESTION.size):
        whole, memory, seconds, length = QUESTION.unpack(question)
        data = sys.stdin.buffer.read(length)
        _limit(own + memory, seconds)
        _answer(sink, data, whole, memory)
        sink.flush()


def _answer(sink: BinaryIO, data: bytes, whole: bool, memory: int) -> None:
    try:
        if whole:
            image = pixels.rgb(pixels.decoded_here(data))
            _say(sink, size=image.size)
            _send(sink, image)
        else:
            _say(sink, size=headers.size_here(io.BytesIO(data), ""))
    except (headers.NoMemory, MemoryError):
        _say(sink, why=f"decoding it takes more than {memory >> 20} MiB")
    except headers.Unusable as e:
        _say(sink, why=str(e)[:MOST_WORDS])


def _say(sink: BinaryIO, **words: object) -> None:
    text = json.dumps(words).encode()
    sink.write(ANSWER.pack(len(text)) + text)


def _send(sink: BinaryIO, image: Image.Image) -> None:
    step = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(image.height, top + step)))
        sink.write(strip.tobytes())


def _limit(memory_bytes: int, seconds: int) -> None:
    """Limits memory and CPU time of all threads, from now on. macOS has no limit on memory."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, ceil(used.ru_utime + used.ru_stime) + seconds)
    with suppress(ValueError, OSError):
        _lower(resource.RLIMIT_AS, memory_bytes)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _lower(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(
        kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


def _mapped_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return OWN_BYTES
