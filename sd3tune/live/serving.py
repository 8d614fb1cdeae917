"""Opens the page's server: which address it has, its token, and what it shows."""

import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from sd3tune.errors import ConfigError, DiskError
from sd3tune.live.gate import LOOPBACK, Gate
from sd3tune.live.page_server import PageServer
from sd3tune.live.receiving import RunReceiver
from sd3tune.live.run_list import RunList

PORT = 8711
MORE_PORTS = 20  # tried where PORT is in use
MIN_TOKEN = 16  # characters
ANY = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Address:
    """What the user asked. port None: PORT or a free one after it. token None: a random one."""

    host: str = "127.0.0.1"
    port: int | None = None
    names: Sequence[str] = ()
    token: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def runs_of(folders: Sequence[Path], receive: Path | None) -> RunList:
    """The runs to show. Raises ConfigError where there is nothing, DiskError for a folder that
    does not exist."""
    if not folders and receive is None:
        raise ConfigError(
            "no run was named", hint="name the output_dir of one: sd3tune watch output"
        )
    for folder in folders:
        if not folder.is_dir():
            why = "is a file" if folder.exists() else "does not exist"
            raise DiskError(
                f"`{folder}` {why}, and a run's output_dir is a folder",
                hint="name the output_dir of a run; `sd3tune train` makes it",
            )
    return RunList(list(folders))


class Opened:
    """A server whose port is bound."""

    def __init__(self, listening: socket.socket, address: Address, receives: bool) -> None:
        self._listening = listening
        self.receives = receives
        self.token = address.token or secrets.token_urlsafe(32)
        self.port: int = listening.getsockname()[1]
        self._host = _shown_host(address.host)
        self._server: uvicorn.Server | None = None
        self._page: PageServer | None = None

    @property
    def url(self) -> str:
        """The page, with the token behind `#`, which a browser keeps to itself."""
        return f"http://{self._host}:{self.port}/#token={self.token}"

    @property
    def receive_url(self) -> str:
        """Where webhooks go."""
        return f"http://{self._host}:{self.port}/receive"

    def serve(self, page: PageServer) -> None:
        """What `run` will run."""
        config = uvicorn.Config(
            page.app, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        self._page, self._server = page, uvicorn.Server(config)

    def run(self) -> None:
        """Answers until Ctrl-C or `end`."""
        assert self._server is not None
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._listening])

    def end(self) -> None:
        """Makes `run` return, from another thread."""
        assert self._server is not None and self._page is not None
        self._page.end()
        self._server.should_exit = True

    def show_in_browser(self) -> None:
        """Opens the page where there is a screen; a text browser would take the terminal."""
        screen = sys.platform == "darwin" or any(
            os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
        )
        if screen and not os.environ.get("SSH_CONNECTION"):
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()


@contextmanager
def opened(runs: RunList, address: Address, receive: Path | None = None) -> Iterator[Opened]:
    """A server that is ready to run. Raises ConfigError where the address cannot be used."""
    if address.token is not None and len(address.token) < MIN_TOKEN:
        raise ConfigError(
            f"`--token` has {len(address.token)} characters, and needs {MIN_TOKEN}",
            hint="leave it out: a random one is made",
        )
    listening = _bound(address)
    try:
        server = Opened(listening, address, receive is not None)
        receiver = None if receive is None else RunReceiver(receive, runs)
        routes = () if receiver is None else (receiver.route,)
        server.serve(PageServer(runs, gate_of(address, server.token), routes))
        yield server
    finally:
        listening.close()


def gate_of(address: Address, token: str) -> Gate:
    """Who may pass."""
    names = {*LOOPBACK, *(name.lower() for name in address.names)}
    if not address.is_loopback:
        names |= {address.host.lower(), socket.gethostname().lower()}
    return Gate(
        token,
        frozenset(names),
        any_address=not address.is_loopback,
        reading_needs_token=not address.is_loopback or bool(address.names),
    )


def _bound(address: Address) -> socket.socket:
    ports = [address.port] if address.port is not None else range(PORT, PORT + MORE_PORTS)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    reason = ""
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address.host, port))
            listening.listen(64)  # uvicorn's own waits until its loop runs
            return listening
        except (OSError, UnicodeError) as e:
            listening.close()
            reason = str(getattr(e, "strerror", None) or e)
    shown = f"{address.host}:{ports[0]}"
    raise ConfigError(
        f"the page cannot listen on {shown}: {reason.lower()}",
        hint="choose another with --port or --host; `--port 0` takes any free port",
    )


def _shown_host(host: str) -> str:
    """As it stands in an address."""
    if host in ANY:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
