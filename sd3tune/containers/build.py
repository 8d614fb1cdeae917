"""`sd3tune image build`: the Dockerfile of a vendor, by the `docker` command's BuildKit.

Not through the SDK: it has only the engine's old builder, which knows no cache mounts and no
secrets (docs/adr/0011-building-images.md).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sd3tune
from sd3tune.containers import engine
from sd3tune.containers.host_image import Kind
from sd3tune.errors import ContainerError

SECRET_NAME = re.compile("TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|PRIVATE_?KEY", re.IGNORECASE)
SECRET_VALUE = re.compile(r"://[^/\s]*@|\bhf_\w{8}")  # user:password@ of an address


@dataclass(frozen=True)
class Build:
    kind: Kind
    tag: str
    source: Path  # the repository
    arguments: tuple[str, ...] = ()  # NAME=VALUE of the Dockerfile's ARGs
    secrets: tuple[str, ...] = ()  # "id=ca,src=FILE"
    network: str | None = None


def sources() -> Path:
    """The repository around the working directory, or around this package."""
    here = Path.cwd()
    places = (here, *here.parents, Path(sd3tune.__file__).parents[1])
    found = next((p for p in places if (p / "docker/cuda.Dockerfile").is_file()), None)
    if found is None:
        raise ContainerError(
            f"no docker/cuda.Dockerfile in {here} or above",
            hint="images are built from the repository: clone it, and run this inside",
        )
    return found


def builder() -> str:
    """A `docker` command with BuildKit. Raises ContainerError."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = dict.fromkeys(p for f in folders if (p := shutil.which("docker", path=f)))
    for command in found:
        asked = subprocess.run([command, "buildx", "version"], capture_output=True, text=True)
        if asked.returncode == 0 and "buildx" in asked.stdout:
            return command
    for command in found:  # until 23 the command brought BuildKit along
        said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        digits = said.removeprefix("Docker version ").split(".")[0]
        if digits.isdigit() and int(digits) < 23:
            return command
    if found:
        raise ContainerError(
            f"`{next(iter(found))}` has no BuildKit: its plugin buildx is missing",
            hint="install it: package docker-buildx-plugin (Docker's) or docker-buildx (Debian's)",
        )
    raise ContainerError(
        "the command `docker` was not found", hint="sudo apt-get install docker.io docker-buildx"
    )


def command_of(b: Build, docker: str) -> list[str]:
    marks = {"VERSION": sd3tune.__version__, "REVISION": revision(b.source)}
    words = [docker, "build", "--file", f"docker/{b.kind}.Dockerfile", "--tag", b.tag]
    words += ["--network", b.network] if b.network else []
    for name, value in marks.items():
        words += ["--build-arg", f"{name}={value}"]
    for argument in b.arguments:
        words += ["--build-arg", argument]
    for secret in b.secrets:
        words += ["--secret", secret]
    return [*words, "."]


def revision(source: Path) -> str:
    """The revision of the sources, for the image's label."""
    asked = [
        "git",
        "-C",
        str(source),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(asked, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def build(b: Build) -> None:
    """Raises ContainerError. What the builder says goes to the terminal as it comes."""
    engine.connect().close()
    environ = {"DOCKER_BUILDKIT": "1", "DOCKER_HOST": engine.address()} | os.environ
    environ.pop("PYTHONSAFEPATH", None)  # ours; helpers of `docker` may be Python with files beside
    done = subprocess.run(command_of(b, builder()), cwd=b.source, env=environ)
    if done.returncode != 0:
        raise ContainerError(
            f"building {b.tag} failed with exit code {done.returncode}",
            hint="the lines above say why; behind a proxy with its own certificate: "
            "--secret id=ca,src=/etc/ssl/certs/ca-certificates.crt",
        )


def size_bytes(client: object, tag: str) -> int:
    return int(client.images.get(tag).attrs["Size"])  # type: ignore[attr-defined]


def arguments(words: Sequence[str]) -> tuple[str, ...]:
    """NAME=VALUE each. Raises ContainerError for a secret, since `docker history` shows the values
    to everyone who has the image."""
    for word in words:
        if "=" not in word[1:]:
            raise ContainerError(
                f"--build-arg {word}", hint="NAME=VALUE, as in --build-arg LOCK=cpu"
            )
        name, _, value = word.partition("=")
        if SECRET_NAME.search(name) or SECRET_VALUE.search(value):
            raise ContainerError(
                f"--build-arg {name}: the image's history would show this secret to everybody",
                hint="--secret id=ID,src=FILE; an address with a password: --secret "
                "id=links,src=FILE",
            )
    return tuple(words)
