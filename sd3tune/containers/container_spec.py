"""One container before it exists, as a `docker run` command and as the SDK's arguments.

It has no privilege that training does not need. Secrets are passed by the engine's interface,
never on a command line; like every variable of a container they can be read by whoever may use the
engine.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sd3tune.containers.host_image import Access

WORKSPACE, HUB = "/workspace", "/huggingface"
SHM = "16g"
UNPRIVILEGED = "no-new-privileges"
ANYBODY = "mode=1777"  # of a tmpfs: whoever the container runs as may write
SSH_KEYS = ("PUBLIC_KEY", "SSH_PUBLIC_KEY")
# What root keeps: files of any owner in /workspace. And what sshd needs where a key was given.
FILES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
SSHD = ("AUDIT_WRITE", "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_CHROOT")


class Port(NamedTuple):
    """outer: of the host, under one of its addresses (empty: under all). inner: of the
    container."""

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
        """The capabilities that the container keeps, of the engine's default ones."""
        if (self.user or "0").split(":")[0] not in ("0", "root"):
            return ()
        return FILES + (SSHD if any(self.environment.get(k) for k in SSH_KEYS) else ())


def docker_command(c: Container) -> str:
    """The container as a `docker run` command. The caller's variables go by name, so that no secret
    is shown."""
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


def sdk_arguments(c: Container) -> dict[str, Any]:
    """The container for `client.containers.create` of docker's SDK."""
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
