"""What a request needs of a URL: host, port, target, proxy and certificates.

Only http and https; a host name in other alphabets as the wire has it (IDNA).
"""

import ssl
from functools import cache
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2 as httpcore

SAFE = "%/:=&~+!$,;'@()*[]?"  # already quoted, or needs no quoting
LATER = (408, 425, 429, 500, 502, 503, 504)  # answers after which another attempt may succeed


class Failed(OSError):
    """The request failed; the message states the reason."""


class Busy(Failed):
    """The request failed, but another attempt may succeed."""

    def __init__(self, why: str, wait_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds


def host_of(url: str) -> str:
    """Host and port of a URL, safe to print. Raises Failed."""
    parts = parts_of(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port}" if parts.port else str(host)


def parts_of(url: str) -> SplitResult:
    """The parts of an http(s) URL. Raises Failed for any other address."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        host = encoded_host(parts).decode()
    except (ValueError, UnicodeError):
        raise Failed("its address is not a URL") from None
    if parts.scheme not in ("http", "https"):
        raise Failed(f"its address is {parts.scheme[:20] or 'without a scheme'}, not http or https")
    if not host or not all(c.isalnum() or c in ".-_:%" for c in host):
        raise Failed("its address names no host")
    return parts


def encoded_host(parts: SplitResult) -> bytes:
    """The host name in ASCII. Raises UnicodeError."""
    host = parts.hostname or ""
    return host.encode("ascii" if ":" in host else "idna")


def host_header(parts: SplitResult) -> str:
    """The value of the header `Host`."""
    host = encoded_host(parts).decode()
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port else host


def target_of(parts: SplitResult) -> httpcore.URL:
    """The URL as a request has it, quoted."""
    path = quote(parts.path or "/", safe=SAFE)
    query = "?" + quote(parts.query, safe=SAFE) if parts.query else ""
    return httpcore.URL(
        scheme=parts.scheme, host=encoded_host(parts), port=parts.port, target=path + query
    )


def named_proxy(parts: SplitResult) -> str | None:
    """The proxy that the environment names for a URL."""
    named = getproxies().get(parts.scheme)
    return None if not named or proxy_bypass(parts.hostname or "") else named


def proxy_of(parts: SplitResult) -> httpcore.Proxy | None:
    """The same as a connection takes it."""
    named = named_proxy(parts)
    if named is None:
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    user = (unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None
    return httpcore.Proxy(f"{proxy.scheme}://{proxy.hostname}:{proxy.port or 80}", auth=user)


@cache
def tls(*, verify: bool = True) -> ssl.SSLContext:
    """verify: refuse certificates that no known authority signed for the host."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
