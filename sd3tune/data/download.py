"""Downloads one file over http(s), with limits on bytes and seconds, from public addresses only.

A connection goes to exactly the address that was checked, so a host name cannot point elsewhere
after the check. Redirects are followed here, with the same checks. Requests contain no cookie and
no credential of this machine, and accept no compression.
"""

import base64
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urljoin

import httpcore2 as httpcore

from sd3tune.data.addresses import PrivateAddress, everything, only_public
from sd3tune.data.network import SILENCE_SECONDS, Checked
from sd3tune.data.request_urls import (
    LATER,
    Busy,
    Failed,
    host_header,
    host_of,
    named_proxy,
    parts_of,
    proxy_of,
    target_of,
    tls,
)

TRIES = 3
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 10.0  # between attempts
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DownloadLimits:
    max_bytes: int
    seconds: float  # redirects and attempts included
    private: bool  # allow hosts that are not public, and proxies


# One loop, with the server's own Retry-After and a deadline over all tries: tenacity would take
# both as functions of ours, and nothing else here retries (huggingface_hub and s3fs do it
# themselves).
def fetch(url: str, file: BinaryIO, limits: DownloadLimits, tell: Tell) -> None:
    """Downloads `url` to `file`. tell: is called with every other host that a redirect names,
    before that host is contacted. Raises Failed."""
    deadline = time.monotonic() + limits.seconds
    wait = FIRST_WAIT_SECONDS
    for attempt in range(TRIES):
        try:
            file.seek(0)
            file.truncate()
            return _followed(url, file, limits, deadline, tell)
        except Busy as e:
            pause = min(max(wait, e.wait_seconds), LONGEST_WAIT_SECONDS)
            if attempt == TRIES - 1 or time.monotonic() + pause >= deadline:
                raise
            time.sleep(pause)
            wait *= 2


def _followed(
    url: str, file: BinaryIO, limits: DownloadLimits, deadline: float, tell: Tell
) -> None:
    start = host_of(url)
    for _ in range(MOST_REDIRECTS + 1):
        target = _answer(url, file, limits, deadline, authorised=host_of(url) == start)
        if target is None:
            return
        if host_of(target) != host_of(url):
            tell(f"{host_of(target)} (redirected from {host_of(url)})")
        url = target
    raise Failed(f"more than {MOST_REDIRECTS} redirects")


def _answer(
    url: str, file: BinaryIO, limits: DownloadLimits, deadline: float, *, authorised: bool
) -> str | None:
    """The URL that the server redirects to; None if `file` now holds the whole response."""
    parts = parts_of(url)
    network = Checked(deadline, everything if limits.private else only_public)
    proxy = _proxy(parts, limits)
    try:
        with (
            httpcore.ConnectionPool(tls(), proxy=proxy, network_backend=network) as pool,
            pool.stream(
                "GET", target_of(parts), headers=_headers(parts, authorised=authorised)
            ) as answer,
        ):
            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers}
            if answer.status in REDIRECTS and "location" in headers:
                return _joined(url, headers["location"])
            _check(answer.status, headers, limits)
            _written(answer.iter_stream(), file, limits)
            return None
    except httpcore.TimeoutException:
        if time.monotonic() >= deadline:
            raise Failed(f"it took longer than {limits.seconds:g} seconds") from None
        raise Busy(f"no byte for {SILENCE_SECONDS:g} seconds") from None
    except httpcore.ConnectError as e:
        raise Failed(f"no connection: {e}") from None
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as e:
        raise Busy(f"the connection broke: {e}") from None
    except (httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol) as e:
        raise Failed(f"the connection failed: {e}") from None


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Failed("its address is not a URL") from None


def _check(status: int, headers: dict[str, str], limits: DownloadLimits) -> None:
    if status in LATER:
        asked = headers.get("retry-after", "")
        raise Busy(f"the server answers {status}", float(asked) if asked.isdecimal() else 0.0)
    if status != 200:
        raise Failed(f"the server answers {status}")
    coding = headers.get("content-encoding", "identity")
    if coding != "identity":
        raise Failed(f"the server sends it as {coding[:20]}, which was not asked for")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise Failed(_too_long(limits))


def _written(body: Iterable[bytes], file: BinaryIO, limits: DownloadLimits) -> None:
    size = 0
    for some in body:
        size += len(some)
        if size > limits.max_bytes:
            raise Failed(_too_long(limits))
        file.write(some)


def _too_long(limits: DownloadLimits) -> str:
    return f"it is longer than max_download_mib={limits.max_bytes // 2**20}"


def _headers(parts: SplitResult, *, authorised: bool) -> list[tuple[str, str]]:
    """The headers of a request. authorised: send user and password of the URL, which is done for
    the table's own host only."""
    found = [("Host", host_header(parts)), ("User-Agent", "sd3tune"),
             ("Accept-Encoding", "identity")]  # fmt: skip
    if authorised and parts.username is not None:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        found.append(("Authorization", "Basic " + base64.b64encode(words.encode()).decode()))
    return found


def _proxy(parts: SplitResult, limits: DownloadLimits) -> httpcore.Proxy | None:
    """The proxy that the environment names for this URL. A proxy resolves the host name itself, so
    the address cannot be checked here: it needs allow_private_hosts."""
    if named_proxy(parts) is not None and not limits.private:
        raise PrivateAddress(
            f"{parts.scheme}_proxy is set, and a proxy connects to addresses that cannot be "
            "checked here; allow_private_hosts=true permits it"
        )
    return proxy_of(parts)
