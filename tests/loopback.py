"""A web server on the loopback that remembers what it was asked, and answers as a test says."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


@dataclass
class Loopback:
    address: str
    asked: list[str] = field(default_factory=list)  # everything of each request, headers too

    @property
    def host(self) -> str:
        return self.address.partition("://")[2]


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


def self_signed(folder: Path) -> ssl.SSLContext:
    """For a server with a certificate that nobody signed. folder: gets its files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Loopback]:
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
    if tls is not None:
        running.socket = tls.wrap_socket(running.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    served = Loopback(f"{scheme}://127.0.0.1:{running.server_address[1]}")
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield served
    finally:
        running.shutdown()
        running.server_close()
