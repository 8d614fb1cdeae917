"""Reads objects of an S3 bucket, with limits on bytes and time: the datasets file names the server
and may come from other people, and the server could send data without end."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

TRIES = 3
PART_BYTES = 2**20
SECONDS, SLOWEST_BYTES_PER_SECOND = 120, 256 * 1024  # for an answer, plus the time for its bytes
Range = tuple[int, int]  # first byte, number of bytes


class Overlong(OSError):
    """The server sent more bytes than requested."""


def read(fs: Any, path: str, count: int, part: Range | None = None) -> bytes:
    """The content of an object of `count` bytes, or a part of it. Raises OSError, and the
    exceptions of s3fs."""
    asked = _tried(fs, path, part[1] if part else count, part)
    return asyncio.run_coroutine_threadsafe(asked, fs.loop).result()  # s3fs's thread


async def _tried(fs: Any, path: str, count: int, part: Range | None) -> bytes:
    seconds = SECONDS + count / SLOWEST_BYTES_PER_SECOND
    try:
        return await asyncio.wait_for(_answer(fs, path, count, part), seconds)
    except TimeoutError:
        raise TimeoutError(f"it took longer than {seconds:.0f} seconds") from None


async def _answer(fs: Any, path: str, count: int, part: Range | None) -> bytes:
    for attempt in range(TRIES):
        try:
            return await _body(fs, path, count, part)
        except (Overlong, FileNotFoundError, PermissionError):
            raise
        except Exception:  # a broken connection: of aiohttp, botocore or the system
            if attempt == TRIES - 1:
                raise
    raise AssertionError


async def _body(fs: Any, path: str, count: int, part: Range | None) -> bytes:
    bucket, key, _ = fs.split_path(path)
    asked = {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"} if part else {}
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **asked)
    body, data = answer["Body"], bytearray()
    try:
        while some := await body.read(PART_BYTES):
            data += some
            if len(data) > count:
                raise Overlong(f"the server sends more than the {count} bytes it should have")
    finally:
        body.close()
    if len(data) < count:
        raise OSError(f"the server sends {len(data)} bytes of {count}")
    return bytes(data)


class Parts(io.RawIOBase):
    """An object as a file. Each read requests one part: fetch(first byte, number of bytes)."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._size)

    def _read(self, most: int) -> bytes:
        count = min(most, self._size - self._at)
        if count <= 0:
            return b""
        data = self._fetch(self._at, count)
        self._at += len(data)
        return data
