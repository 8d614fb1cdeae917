"""Who may ask the page's server for what, and the headers of every answer.

* The Host header must be a name of this server. A page of a stranger whose name was made to lead
  here (DNS rebinding) sends its own name.
* A request that changes something needs the token, and an Origin that is this page: no other page
  can send it from the user's browser (CSRF).
* Beyond the loopback interface every request needs the token, except for the page's own files, in
  which nothing of a run stands. The address that `sd3tune watch` prints holds the token behind `#`,
  which a browser does not send; the page exchanges it for a cookie that scripts cannot read.
"""

import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = ("/", "/enter", "/assets/", "/favicon.ico")  # readable without a token
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Gate:
    """token: of this server. names: that it is reached by, in lower case. any_address: also by a
    numeric address. reading_needs_token: also for requests that change nothing."""

    token: str
    names: frozenset[str] = LOOPBACK
    any_address: bool = False
    reading_needs_token: bool = False

    def refusal(self, request: HTTPConnection) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused; None for one that may pass."""
        if not self.is_own_name(request.headers.get("host", "")):
            return 421, "this server is not called by that name; `--name` adds one"
        path, method = request.scope["path"], request.scope["method"]
        if path == "/receive":  # of programs, with a header that only they can set
            origin = request.headers.get("origin")
            allowed = origin is None and self.knows_token(sent_token(request))
            return None if allowed else (403, "the token of this server is missing or wrong")
        if method not in ("GET", "HEAD") and not self.is_own_origin(request):
            return 403, "the request does not come from this page"
        if path == "/enter":
            return None
        if method in ("GET", "HEAD") and (not self.reading_needs_token or is_open(path)):
            return None
        if not self.knows_token(request.cookies.get(cookie_name(request))):
            return 401, "open the address that `sd3tune watch` printed: it holds the token"
        return None

    def knows_token(self, token: str | None) -> bool:
        """Compares in constant time."""
        return secrets.compare_digest((token or "").encode(), self.token.encode())

    def is_own_name(self, host: str) -> bool:
        """host: a Host header, with or without a port."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self.names or (self.any_address and _is_address(name))

    def is_own_origin(self, request: HTTPConnection) -> bool:
        """Whether the Origin header names the same host and port as the Host header."""
        origin = request.headers.get("origin", "")
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        is_web = parts.scheme in ("http", "https")
        return is_web and parts.netloc.lower() == request.headers.get("host", "").lower()


class GateKeeper:
    """The middleware that asks the gate, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refusal := self._gate.refusal(HTTPConnection(scope)):
            status, reason = refusal
            await JSONResponse({"error": reason}, status)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def is_open(path: str) -> bool:
    """Whether the path is one of the page's own files."""
    return any(path == each or (each.endswith("/") and path.startswith(each) and each != "/")
               for each in OPEN)  # fmt: skip


def cookie_name(request: HTTPConnection) -> str:
    """A browser sends cookies to every port of a host: each server has a name of its own."""
    return f"sd3tune-watch-{urlsplit('//' + request.headers.get('host', '')).port or 80}"


def sent_token(request: HTTPConnection) -> str | None:
    """The token in the headers of a program's request."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
