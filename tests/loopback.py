"""A web server on the loopback that remembers what it was asked, and answers as a test says."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


@dataclass
class Loopback:
    address: str
    asked: list[str] = field(default_factory=list)  # everything of each request, headers too

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")


def sends(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: Handler) -> None:
        request.send_response(status)
        for name, value in ({"Content_Length": str(len(data))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


@dataclass(frozen=True)
class Received:
    """One request that a receiver got."""

    method: str
    path: str
    headers: dict[str, str]  # by names in lower case
    body: bytes


def receives(into: list[Received], status: int = 200, data: bytes = b"", **headers: str) -> Answer:
    """Reads each request whole, and then answers as `sends` does."""

    def answer(request: Handler) -> None:
        names = {name.lower(): value for name, value in request.headers.items()}
        body = request.rfile.read(int(names.get("content-length", "0")))
        into.append(Received(request.command, request.path, names, body))
        sends(data, status, **headers)(request)

    return answer


@contextmanager
def serving(answer: Answer) -> Iterator[Loopback]:
    class Asked(Handler):
        def do_GET(self) -> None:
            served.asked.append(f"{self.requestline}\n{self.headers}")
            try:
                answer(self)
            except OSError:  # the other side had enough
                self.close_connection = True

        do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *words: object) -> None: ...

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    running.daemon_threads = True
    served = Loopback(f"http://127.0.0.1:{running.server_address[1]}")
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield served
    finally:
        running.shutdown()
        running.server_close()
