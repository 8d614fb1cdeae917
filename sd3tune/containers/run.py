"""`sd3tune image run`: one container in the foreground: signals go in, output and exit code out.

The container goes away when it ends, and has no privilege that training does not need. Secrets are
passed by the engine's interface, never on a command line; like every variable of a container they
can be read by who may ask the engine.
"""

import ipaddress
import os
import posixpath
import re
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from sd3tune.containers import engine
from sd3tune.containers.host_image import Access
from sd3tune.errors import ContainerError

WORKSPACE, HUB = "/workspace", "/huggingface"
HOST_HUB = "~/.cache/huggingface"
SHM = "16g"
UNPRIVILEGED = "no-new-privileges"
ANYBODY = "mode=1777"  # of a tmpfs: whoever the container runs as may write
# Of the caller's environment; what else is wanted is named with --env.
FORWARDED = "HF_TOKEN HF_ENDPOINT HF_HUB_OFFLINE HTTP_PROXY HTTPS_PROXY NO_PROXY NO_COLOR".split()
# Of Hugging Face's folder: downloaded files, and nothing of who downloaded them.
SHARED = ("hub", "xet")
SSH_KEYS = ("PUBLIC_KEY", "SSH_PUBLIC_KEY")
# What root keeps: files of any owner in /workspace. And what sshd needs where a key was given.
FILES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
SSHD = ("AUDIT_WRITE", "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_CHROOT")
YES = ("1", "ON", "YES", "TRUE")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Port(NamedTuple):
    """Of the host, under one of its addresses (empty: under all), and of the container."""

    address: str
    outer: int
    inner: int


@dataclass(frozen=True)
class Container:
    """One container, before it exists; `words` after the image are for its entrypoint."""

    image: str
    words: tuple[str, ...]
    access: Access
    mounts: Mapping[str, Path] = field(default_factory=dict)  # in the container -> of the host
    environment: Mapping[str, str] = field(default_factory=dict)
    outer: frozenset[str] = frozenset()  # variables with the caller's value: never shown
    user: str | None = None
    network: str | None = None
    ports: tuple[Port, ...] = ()
    shm: str = SHM
    terminal: bool = False
    entrypoint: str | None = None
    token_file: Path | None = None  # the value of HF_TOKEN was read there

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Those of the engine's default ones that are left."""
        if (self.user or "0").split(":")[0] not in ("0", "root"):
            return ()
        return FILES + (SSHD if any(self.environment.get(k) for k in SSH_KEYS) else ())


def environment(
    names: Sequence[str], given: Sequence[str], outer: Mapping[str, str]
) -> tuple[dict[str, str], frozenset[str]]:
    """`names` as far as they are set outside; of `given` NAME takes the outer value, NAME=VALUE
    states it. And which of them have the outer value. Raises ContainerError for a NAME that is not
    set, and for no name."""
    found = {name: outer[name] for name in names if outer.get(name)}
    inherited = set(found)
    for word in given:
        name, equals, value = word.partition("=")
        if not name:
            raise ContainerError(f"--env {word}", hint="NAME or NAME=VALUE, as in --env HF_TOKEN")
        if not equals and name not in outer:
            words = f"--env {name}: there is no such variable here"
            raise ContainerError(words, hint=f"export {name}=…, or say --env {name}=VALUE")
        found[name] = value if equals else outer[name]
        inherited = inherited - {name} if equals else inherited | {name}
    return found, frozenset(inherited)


def folders(given: Sequence[str]) -> dict[str, Path]:
    """Of OUTER:INNER, as `docker run -v` takes them. Raises ContainerError."""
    found: dict[str, Path] = {}
    for word in given:
        outer, colon, inner = word.rpartition(":")
        if not colon or not inner.startswith("/") or not Path(outer).is_dir():
            hint = "an existing folder and where it goes: --mount /data/images:/images"
            raise ContainerError(f"--mount {word}", hint=hint)
        place = posixpath.normpath(inner)
        if place in found or place in (WORKSPACE, HUB, *(f"{HUB}/{name}" for name in SHARED)):
            hint = f"another; {WORKSPACE} is what --workspace says, {HUB} what HF_HOME says"
            raise ContainerError(f"--mount {word}: {place} is taken", hint=hint)
        found[place] = Path(outer).resolve()
    return found


def shared_hub(outer: Mapping[str, str]) -> Path:
    """The host's Hugging Face folder, made where there is none: weights are downloaded once for
    all. Raises ContainerError."""
    said = outer.get("HF_HOME") or HOST_HUB
    try:
        folder = Path(said).expanduser().resolve()
        for name in SHARED:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: the home of nobody
        words = f"Hugging Face's folder `{said}` cannot be made: {e}"
        raise ContainerError(words, hint="export HF_HOME=FOLDER that you may write to") from None
    return folder


def shared_mounts(hub: Path) -> dict[str, Path]:
    """The parts of Hugging Face's folder that a container gets. Its `token` and `stored_tokens` are
    files beside them, and stay outside."""
    return {f"{HUB}/{name}": (hub / name).resolve() for name in SHARED}


def token_file(outer: Mapping[str, str]) -> Path | None:
    """Where `hf auth login` left a token, when no HF_TOKEN is set: the container gets that variable
    in place of the file. None also where Hugging Face's own switch says so."""
    if outer.get("HF_TOKEN") or outer.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in YES:
        return None
    said = outer.get("HF_TOKEN_PATH") or f"{outer.get('HF_HOME') or HOST_HUB}/token"
    try:
        path = Path(said).expanduser().resolve()
        return path if path.read_text().strip() else None
    except (OSError, ValueError, RuntimeError):  # RuntimeError: the home of nobody
        return None


def memory(word: str) -> str:
    """A size as docker takes it, of /dev/shm. Raises ContainerError."""
    if not re.fullmatch(r"[1-9]\d*([bkmgt]b?)?", word, re.ASCII | re.IGNORECASE):
        raise ContainerError(f"--shm-size {word}", hint="a size: --shm-size 16g, or 512m")
    return word


def port(word: str) -> Port:
    """[ADDRESS:]OUTER:INNER, as `docker run -p` takes them. Raises ContainerError."""
    outer, _, inner = word.rpartition(":")
    address, _, number = outer.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        if address:
            ipaddress.ip_address(address)
        found = Port(address, int(number), int(inner))
    except ValueError:
        found = Port("", 0, 0)
    if not all(0 < n < 65536 for n in found[1:]):
        hint = "two numbers: --publish 8888:8888, or 127.0.0.1:8888:8888 for this host alone"
        raise ContainerError(f"--publish {word}", hint=hint)
    return found


def rootless(info: Mapping[str, Any]) -> bool:
    return any("rootless" in str(option) for option in info.get("SecurityOptions") or ())


def caller(info: Mapping[str, Any]) -> str | None:
    """Files should belong to who asked. Under a rootless engine root inside is the user outside."""
    return None if rootless(info) or os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"


def words_of(c: Container) -> str:
    """The same as a `docker run` command. The caller's variables go by name: no secret is shown."""
    parts = ["docker", "run", "--rm"]
    parts += ["-it"] if c.terminal else []
    parts += ["--cap-drop", "ALL", *(w for name in c.capabilities for w in ("--cap-add", name))]
    parts += ["--security-opt", UNPRIVILEGED]
    parts += _access_words(c.access)
    parts += [] if c.access.host_ipc else ["--shm-size", c.shm]
    parts += ["--user", c.user] if c.user else []
    parts += ["--network", c.network] if c.network else []
    parts += [w for p in c.ports for w in ("-p", _port_word(p))]
    for inner, outer in c.mounts.items():
        parts += _mount_words(str(outer), inner)
    for name, value in sorted(c.environment.items()):
        parts += ["-e", name if name in c.outer else f"{name}={value}"]
    parts += ["--tmpfs", f"{HUB}:{ANYBODY}"] if _has_hub(c) else []
    parts += ["--entrypoint", c.entrypoint] if c.entrypoint else []
    command = shlex.join([*parts, c.image, *c.words])
    if c.token_file is None:
        return command
    return f'HF_TOKEN="$(cat {shlex.quote(str(c.token_file))})" {command}'


def _has_hub(c: Container) -> bool:
    """Then HF_HOME is a folder of this container: mounts bring parts of the host's into it."""
    return any(inner.startswith(f"{HUB}/") for inner in c.mounts)


def _port_word(p: Port) -> str:
    address = f"[{p.address}]" if ":" in p.address else p.address
    return f"{address}:{p.outer}:{p.inner}".removeprefix(":")


def _mount_words(outer: str, inner: str) -> list[str]:
    if ":" not in outer + inner:
        return ["-v", f"{outer}:{inner}"]
    quoted = (word.replace('"', '""') for word in (outer, inner))
    return ["--mount", 'type=bind,"src={}","dst={}"'.format(*quoted)]


def _access_words(a: Access) -> list[str]:
    parts: list[str] = []
    if a.gpus is not None and a.cdi:
        parts += [w for name in _cdi(a.gpus) for w in ("--device", name)]
    elif a.gpus is not None:
        parts += ["--gpus", f'"device={",".join(a.gpus)}"' if a.gpus else "all"]
    parts += [w for device in a.devices for w in ("--device", device)]
    parts += [w for group in a.groups for w in ("--group-add", group)]
    parts += ["--ipc", "host"] if a.host_ipc else []
    parts += ["--security-opt", f"seccomp={a.seccomp}"] if a.seccomp else []
    return parts


def _cdi(gpus: tuple[str, ...]) -> list[str]:
    return [f"nvidia.com/gpu={g}" for g in gpus or ("all",)]


def arguments_of(c: Container) -> dict[str, Any]:
    """The same for docker's SDK."""
    from docker.types import DeviceRequest, Mount

    a, requests = c.access, []
    if a.gpus is not None and a.cdi:
        requests = [DeviceRequest(driver="cdi", device_ids=_cdi(a.gpus))]
    elif a.gpus is not None:
        which = {"device_ids": list(a.gpus)} if a.gpus else {"count": -1}
        requests = [DeviceRequest(capabilities=[["gpu"]], **which)]
    asked: dict[str, Any] = {
        "image": c.image,
        "command": list(c.words),
        "environment": dict(c.environment),
        "mounts": [Mount(inner, str(outer), type="bind") for inner, outer in c.mounts.items()],
        "device_requests": requests,
        "devices": [f"{device}:{device}:rwm" for device in a.devices],
        "group_add": list(a.groups),
        "security_opt": [UNPRIVILEGED, *([f"seccomp={a.seccomp}"] if a.seccomp else [])],
        "cap_drop": ["ALL"],
        "cap_add": list(c.capabilities),
        "tmpfs": {HUB: ANYBODY} if _has_hub(c) else {},
        "tty": c.terminal,
        "ports": {},
    }
    for p in c.ports:
        asked["ports"].setdefault(f"{p.inner}/tcp", []).append((p.address, p.outer))
    asked |= {"ipc_mode": "host"} if a.host_ipc else {"shm_size": c.shm}
    more = {"user": c.user, "network": c.network, "entrypoint": c.entrypoint}
    return asked | {key: value for key, value in more.items() if value is not None}


def run(client: Any, c: Container) -> int:
    """Until the container ends; its exit code. Raises ContainerError when it cannot start."""
    import docker

    try:
        container = client.containers.create(**arguments_of(c))
    except (docker.errors.APIError, docker.errors.ImageNotFound) as e:
        raise engine.explained(e, c.image) from None
    try:
        output = client.api.attach(container.id, stream=True, demux=not c.terminal)
        with _signals_to(container.id) as signals:
            try:
                container.start()
            except docker.errors.APIError as e:
                raise engine.explained(e, c.image) from None
            signals.started()
            if c.terminal:
                _resize(container)
            _copy(output, c.terminal)
            return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True, v=True)


def _resize(container: Any) -> None:
    """Progress bars as wide as the terminal they are seen in."""
    import docker

    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    try:
        container.resize(height=lines, width=columns)
    except docker.errors.APIError:  # it has just ended
        return


def _copy(output: Any, terminal: bool) -> None:
    """What the container says, where it said it."""
    for part in output:
        for stream, data in zip(
            (sys.stdout, sys.stderr), (part, None) if terminal else part, strict=True
        ):
            if data:
                stream.buffer.write(data)
                stream.flush()


class _signals_to:
    """SIGINT, SIGTERM and SIGHUP go to the container; this process waits for it."""

    def __init__(self, container: str) -> None:
        self._container = container
        self._before: dict[int, Any] = {}
        self._waiting: list[int] | None = []  # until the container has started

    def __enter__(self) -> "_signals_to":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def started(self) -> None:
        early, self._waiting = self._waiting or [], None
        for number in early:
            self._pass(number, None)

    def _pass(self, number: int, frame: FrameType | None) -> None:
        if self._waiting is not None:
            self._waiting.append(number)
            return
        # A connection of its own: the main one is in the middle of reading.
        threading.Thread(target=self._kill, args=(number,), daemon=True).start()

    def _kill(self, number: int) -> None:
        import docker

        try:
            docker.APIClient(base_url=engine.address(), version="auto").kill(
                self._container, number
            )
        except docker.errors.APIError:  # it has just ended
            return


def captured(client: Any, c: Container) -> tuple[str, int]:
    """What a container wrote to stdout, and its exit code. Raises ContainerError."""
    import docker

    try:
        container = client.containers.create(**arguments_of(c))
    except (docker.errors.APIError, docker.errors.ImageNotFound) as e:
        raise engine.explained(e, c.image) from None
    try:
        container.start()
        code = int(container.wait()["StatusCode"])
        return container.logs(stdout=True, stderr=False).decode(errors="replace"), code
    except docker.errors.APIError as e:
        raise engine.explained(e, c.image) from None
    finally:
        container.remove(force=True, v=True)
