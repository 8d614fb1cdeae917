"""Network connections to checked addresses that end at a deadline, however slow the server is."""

import ssl
import time
from typing import Any

import httpcore2 as httpcore

from sd3tune.data.addresses import Check, addresses

SILENCE_SECONDS = 30.0  # longest wait for the next byte


class Checked(httpcore.NetworkBackend):
    """Connects only to checked addresses, and only until a deadline."""

    def __init__(self, deadline: float, check: Check) -> None:
        self._deadline, self._check = deadline, check

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        digits = addresses(host, port, self._check)
        for address in digits:
            left = _left(self._deadline, httpcore.ConnectTimeout)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == digits[-1]:
                    raise
            else:
                return Timed(stream, self._deadline)
        raise httpcore.ConnectError(f"{host} has no address")


class Timed(httpcore.NetworkStream):
    """A connection in which every wait ends at the deadline. Otherwise a server that sends a byte
    from time to time could keep it open for ever."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, httpcore.ConnectTimeout)
        return Timed(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, late: type[Exception]) -> float:
    """The seconds that a wait may take. Raises `late` after the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise late("the deadline passed")
    return min(left, SILENCE_SECONDS)
