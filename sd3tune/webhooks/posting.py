"""One http request to a receiver, ended by a deadline.

The addresses behind the host are checked before a connection is made, those of a redirect too.
Certificates are checked unless the user allowed others. No cookie is kept, and a key of the user
goes to no other host than the one it was written for.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpcore2 as httpcore

from sd3tune.data.addresses import Check, PrivateAddress, addresses, everything
from sd3tune.data.network import Checked
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

REQUEST_SECONDS = 30.0  # redirects included
MOST_REDIRECTS = 3
REPEATED = (307, 308)  # redirects that ask for the same request again
ANSWER_BYTES = 64 * 2**10  # read of an answer
NO_ENTRY = (401, 403, 404, 410)  # the receiver does not want us, now or later
PORTS = {"http": 80, "https": 443}


class ReceiverRefused(Failed):
    """No further request can succeed."""


@dataclass(frozen=True)
class HttpRequest:
    """One message. keys: headers that go to the host of the URL only."""

    body: bytes
    content_type: str
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "POST"


@dataclass(frozen=True)
class Policy:
    """To whom a connection may be made."""

    check: Check
    verify: bool  # the certificate


@dataclass(frozen=True)
class HttpAnswer:
    """status: of http. headers: by names in lower case. body: its first bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send(url: str, request: HttpRequest, policy: Policy, seconds: float = REQUEST_SECONDS) -> bytes:
    """The body of the receiver's answer. Raises Busy where another attempt may succeed,
    ReceiverRefused where none will, and Failed where this message cannot be delivered."""
    deadline = time.monotonic() + seconds
    start = host_of(url)
    for _ in range(MOST_REDIRECTS + 1):
        answer = _answered(url, request, policy, deadline, trusted=host_of(url) == start)
        target = answer.headers.get("location")
        if not 300 <= answer.status < 400 or target is None:
            return _body(answer)
        target = _redirected(url, target)
        if answer.status not in REPEATED:
            raise ReceiverRefused(f"it redirects to {host_of(target)}; write that address")
        url = target
    raise ReceiverRefused(f"more than {MOST_REDIRECTS} redirects")


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
    except ValueError:
        raise ReceiverRefused("it redirects to what is not a URL") from None
    if url.startswith("https:") and not target.startswith("https:"):
        raise ReceiverRefused(f"it redirects from https to {host_of(target)} without encryption")
    return target


def _body(answer: HttpAnswer) -> bytes:
    """Raises as `send` does for an answer that is not a success."""
    if 200 <= answer.status < 300:
        return answer.body
    why = f"the server answers {answer.status}"
    if answer.status in LATER or answer.status >= 500:
        raise Busy(why, _wait_seconds(answer))
    if answer.status in NO_ENTRY:
        raise ReceiverRefused(why)
    raise Failed(why)


def _wait_seconds(answer: HttpAnswer) -> float:
    """The seconds after which the server asks to try again; 0 where it does not say."""
    try:  # Discord's own answer has fractions of a second, its header has not
        return max(0.0, float(json.loads(answer.body)["retry_after"]))
    except (ValueError, TypeError, KeyError):
        pass
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:  # a date
        return 0.0


def _answered(
    url: str, request: HttpRequest, policy: Policy, deadline: float, *, trusted: bool
) -> HttpAnswer:
    """trusted: send the keys too. Raises Busy, ReceiverRefused and Failed."""
    parts = parts_of(url)
    headers = {
        "Host": host_header(parts),
        "User-Agent": "sd3tune",
        "Accept-Encoding": "identity",
        "Content-Type": request.content_type,
        "Content-Length": str(len(request.body)),
        **(request.keys if trusted else {}),
    }
    proxied = named_proxy(parts) is not None
    try:
        if proxied:
            _check_before_proxy(url, policy)
        network = Checked(deadline, everything if proxied else policy.check)
        with (
            httpcore.ConnectionPool(
                tls(verify=policy.verify), proxy=proxy_of(parts), network_backend=network
            ) as pool,
            pool.stream(
                request.method, target_of(parts), headers=list(headers.items()),
                content=request.body,
            ) as answer,
        ):  # fmt: skip
            got = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers}
            return HttpAnswer(answer.status, got, _beginning(answer))
    except PrivateAddress as e:
        raise ReceiverRefused(str(e)) from None
    except httpcore.TimeoutException:
        raise Busy("no answer in time") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as e:
        raise Busy(f"no connection: {e}") from None
    except Failed:
        raise
    except OSError as e:  # the host is not known, at present
        raise Busy(str(e)) from None


def _check_before_proxy(url: str, policy: Policy) -> None:
    """A proxy resolves the host itself: what this machine knows of it is checked. Raises
    PrivateAddress."""
    parts = parts_of(url)
    try:
        addresses(str(parts.hostname), parts.port or PORTS[parts.scheme], policy.check)
    except PrivateAddress:
        raise
    except OSError:  # only the proxy knows the name
        return


def _beginning(answer: httpcore.Response) -> bytes:
    body = b""
    for some in answer.iter_stream():
        body += some
        if len(body) >= ANSWER_BYTES:
            break
    return body[:ANSWER_BYTES]
