"""A container engine of a page: the part of Docker's API (1.41) that `sd3tune image` asks, over a
unix socket, for docker's own SDK. No container runs: what one says and how it ends is given.
"""

import http.server
import json
import re
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAG = "sd3tune:cuda"


@dataclass
class Engine:
    """info: what it says of itself. images: tag -> labels. refuses: a part of a path -> (status,
    text). out, err: what the container writes. ends: its exit code, or None: on a signal."""

    info: dict[str, Any] = field(default_factory=dict)
    images: dict[str, dict[str, str]] = field(default_factory=lambda: {TAG: {}})
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    out: bytes = b""
    err: bytes = b""
    ends: int | None = 0
    asked: list[str] = field(default_factory=list)  # "POST /containers/create", in order
    created: list[dict[str, Any]] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def finish(self, code: int) -> None:
        self.ends = code
        self.ended.set()


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        e, (path, _, query) = self.engine, self._path()
        if path == "/version":
            self._say({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
        elif path == "/_ping":
            self._say({})
        elif path == "/info":
            self._say(e.info)
        elif found := re.fullmatch(r"/images/(.+)/json", path):
            labels = e.images.get(found[1])
            if labels is None:
                self._say({"message": f"No such image: {found[1]}"}, 404)
            else:
                self._say({"Id": "1", "Size": 7_520_000_000, "Config": {"Labels": labels}})
        elif path.endswith("/json"):
            self._say({"Id": "1", "Config": {"Tty": e.created[-1]["Tty"]}})
        elif path.endswith("/logs"):
            self._raw(self._frame(1, e.out) if "stdout=1" in query else b"")

    def do_POST(self) -> None:
        e, (path, _, query) = self.engine, self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/containers/create":
            document = json.loads(body)
            e.created.append(document)
            if document["Image"] not in e.images:
                self._say({"message": f"No such image: {document['Image']}"}, 404)
            else:
                self._say({"Id": "1", "Warnings": []}, 201)
        elif path.endswith("/attach"):
            self._raw(b"", more=True)
            e.started.wait(30)
            self.wfile.write(self._frame(1, e.out) + self._frame(2, e.err))
            e.ended.wait(30)
        elif path.endswith("/start"):
            e.started.set()
            if e.ends is not None:
                e.ended.set()
            self._say(None, 204)
        elif path.endswith("/wait"):
            e.ended.wait(30)
            self._say({"StatusCode": e.ends})
        elif path.endswith("/kill"):
            e.finish(128 + int(query.removeprefix("signal=")))
            self._say(None, 204)

    def do_DELETE(self) -> None:
        self._path()
        self._say(None, 204)

    def parse_request(self) -> bool:
        """Refuses what it was told to refuse."""
        good = super().parse_request()
        for part, (status, text) in self.engine.refuses.items():
            if good and part in self.path:
                self._path()
                self._say({"message": text}, status)
                self.close_connection = True
                return False
        return good

    def _path(self) -> tuple[str, str, str]:
        path = re.sub(r"^/v1\.\d+", "", self.path)
        self.engine.asked.append(f"{self.command} {path.partition('?')[0]}")
        return path.partition("?")

    def _say(self, document: Any, status: int = 200) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def _raw(self, body: bytes, more: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        if not more:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = more

    @staticmethod
    def _frame(stream: int, data: bytes) -> bytes:
        return struct.pack(">BxxxL", stream, len(data)) + data if data else b""

    def address_string(self) -> str:
        return "engine"  # a unix socket has no address of the other side

    def log_message(self, *_: object) -> None:
        return


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def listening(engine: Engine, socket: Path) -> Iterator[str]:
    """Its address, as DOCKER_HOST takes it."""
    handler = type("Handler", (_Answers,), {"engine": engine})
    with _Server(str(socket), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"unix://{socket}"
        finally:
            engine.ended.set()
            server.shutdown()
            thread.join()
