"""The container engine through the Docker SDK for Python, and what its errors mean.

The texts that are searched for were recorded from real engines, by us or in public bug reports
(docs/guides/images.md lists them).
"""

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from sd3tune.errors import ContainerError

LOG = logging.getLogger(__name__)
DEFAULT = "unix:///var/run/docker.sock"
TOOLKIT = (
    "install NVIDIA's Container Toolkit (package nvidia-container-toolkit), then "
    "`sudo nvidia-ctk runtime configure --runtime=docker` and `sudo systemctl restart docker`"
)
# What the engine says (an expression) -> what it means, what to do. The first that fits is said.
MEANINGS = (
    ('could not select device driver ""', "the engine cannot pass NVIDIA cards: it has no NVIDIA "
     "Container Toolkit", TOOLKIT),
    ('could not select device driver "nvidia"', "the engine cannot pass NVIDIA cards: it has no "
     "NVIDIA Container Toolkit", TOOLKIT),
    ('could not select device driver "cdi"', "the engine's Container Device Interface is off",
     'put {"features": {"cdi": true}} into /etc/docker/daemon.json and restart docker'),
    ("unresolvable CDI devices", "the engine does not know such an NVIDIA device",
     "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"),
    ("Unknown runtime specified nvidia", "the engine has no NVIDIA runtime", TOOLKIT),
    ("nvidia-container-cli: initialization error", "NVIDIA's toolkit found no working driver",
     "run `nvidia-smi` on the host, and install or reload its driver first"),
    ("nvidia-container-cli: device error: (.+?): unknown device",
     r"this host has no NVIDIA device `\1`", "`nvidia-smi -L` lists what --gpus may name"),
    ("nvidia-container-cli: requirement error", "the host's NVIDIA driver is too old for the image",
     "update the driver to 580 or newer"),
    ('custom device "/dev/kfd"', "this host has no /dev/kfd: the amdgpu driver is not loaded",
     "sudo modprobe amdgpu, or install amdgpu-dkms"),
    ('custom device "/dev/dri"', "this host has no /dev/dri: the amdgpu driver is not loaded",
     "sudo modprobe amdgpu, or install amdgpu-dkms"),
    ("unable to find user ([^:]+)", r"the image has no user `\1`",
     'give numbers: --user "$(id -u):$(id -g)"'),
    ("unable to find group ([^:]+)", r"the image has no group `\1`",
     'give numbers, as in --user "$(id -u):$(id -g)", or --group-add "$(stat -c %g /dev/kfd)"'),
    ("network (.+) not found", r"the engine has no network `\1`", "`docker network ls` lists them"),
    ("no space left on device", "the engine's disk is full", "docker system prune"),
    ("address already in use", "the port is taken on this host", "choose another for --publish"),
    ("port is already allocated", "the port is taken on this host", "choose another for --publish"),
)  # fmt: skip


def address() -> str:
    """Where the engine listens: DOCKER_HOST, else the `docker` command's current context."""
    if said := os.environ.get("DOCKER_HOST"):
        return said
    from docker.context import ContextAPI

    try:
        context = ContextAPI.get_current_context()
    except Exception:  # a broken ~/.docker: whatever reading it raises, the default is left
        return DEFAULT
    return (context.Host if context else None) or DEFAULT


def connect() -> Any:
    """A client of a running engine. Raises ContainerError, with the fix."""
    try:
        import docker
    except ImportError:
        raise ContainerError(
            "the Python package docker is not installed", hint="pip install 'sd3tune[docker]'"
        ) from None
    where = address()
    LOG.debug(f"container engine at {where}")
    try:
        client = docker.DockerClient(base_url=where, version="auto", timeout=600)
        client.ping()
    except (docker.errors.DockerException, OSError, ValueError) as e:  # ValueError: no address
        raise unreachable(e, where) from None
    return client


def unreachable(error: BaseException, where: str) -> ContainerError:
    """Why the engine cannot be reached, from what the system answered."""
    causes = [type(cause).__name__ for cause in _causes(error)]
    if "PermissionError" in causes:
        return ContainerError(
            f"no permission on the container engine's socket {where}",
            hint="sudo usermod -aG docker $USER, and log in again; or use a rootless engine",
        )
    if "ConnectionRefusedError" in causes:
        return ContainerError(
            f"no container engine listens on {where}",
            hint="start it: sudo systemctl start docker; or DOCKER_HOST names another address",
        )
    if "FileNotFoundError" in causes:
        return ContainerError(
            f"no container engine: there is no {where}",
            hint="install Docker (Debian, Ubuntu: sudo apt-get install docker.io) and start it: "
            "sudo systemctl start docker; or point DOCKER_HOST to one",
        )
    return ContainerError(
        f"the container engine at {where} cannot be reached: {_short(error)}",
        hint="`docker info` shows what is wrong; DOCKER_HOST says where it is",
    )


def explained(error: Exception, image: str) -> ContainerError:
    """What the engine refused, as a message and a hint."""
    text = _short(error)
    if type(error).__name__ == "ImageNotFound" or "no such image" in text.lower():
        return ContainerError(
            f"there is no image `{image}` here", hint="sd3tune image build, or docker pull it"
        )
    if "invalid reference format" in text:
        hint = "lower case and no blanks, as in --image registry.example.com/team/sd3tune:cuda"
        return ContainerError(f"`{image}` is not a valid name of an image", hint=hint)
    for said, meaning, hint in MEANINGS:
        if found := re.search(said, text, re.IGNORECASE):
            return ContainerError(found.expand(meaning), hint=hint)
    return ContainerError(f"the container engine refused: {text}", hint="sd3tune image check")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The chain of an exception, through the arguments where requests and urllib3 keep theirs."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        waiting += [one.__cause__, one.__context__]
        waiting += [a for a in _flat(one.args) if isinstance(a, BaseException)]
    return iter(seen)


def _flat(values: tuple[Any, ...]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def _short(error: BaseException) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())
