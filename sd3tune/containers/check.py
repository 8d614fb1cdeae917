"""`sd3tune image check`: would a container of the image train on this host?

Asks the engine, then the image itself: its own doctor runs in a container with the host's cards.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sd3tune
from sd3tune.containers import build, engine, foreground, host_image
from sd3tune.containers.container_spec import Container
from sd3tune.containers.run_options import rootless
from sd3tune.errors import ContainerError

GB = 10**9


@dataclass(frozen=True)
class CheckLine:
    """`status  name: fact`, with a fix for what is not ok."""

    status: str  # "ok", "warn", "FAIL"
    name: str
    fact: str
    fix: str = ""


Make = Callable[[Mapping[str, Any]], Container]


def check(tag: str, make: Make, toolkit: bool) -> Iterator[CheckLine]:
    """make: the container that `image run` starts, from what the engine says of itself.

    Never raises for what is missing: that is a line with its fix.
    """
    try:
        client = engine.connect()
    except ContainerError as e:
        yield CheckLine("FAIL", "engine", str(e), e.hint)
        return
    info, version = client.info(), client.version()
    words = f"{version.get('Version')}, API {version.get('ApiVersion')}, {engine.address()}"
    yield CheckLine("ok", "engine", words + (", rootless" if rootless(info) else ""))
    yield _builder()
    if toolkit:
        yield _toolkit(info)
    image = _image(client, tag)
    yield image
    try:
        container = make(info)
    except ContainerError as e:
        yield CheckLine("FAIL", "container", str(e), e.hint)
        return
    if image.status != "FAIL":
        yield from _inside(client, container)


def _builder() -> CheckLine:
    try:
        return CheckLine("ok", "builder", f"{build.builder()} with BuildKit")
    except ContainerError as e:
        return CheckLine("warn", "builder", str(e), e.hint)


def _toolkit(info: dict[str, Any]) -> CheckLine:
    if host_image.has_cdi(info):
        return CheckLine("ok", "NVIDIA toolkit", "CDI devices nvidia.com/gpu")
    if host_image.has_runtime(info):
        return CheckLine("ok", "NVIDIA toolkit", "runtime nvidia")
    return CheckLine("FAIL", "NVIDIA toolkit", "neither a runtime nor CDI devices", engine.TOOLKIT)


def _image(client: Any, tag: str) -> CheckLine:
    import docker

    try:
        found = client.images.get(tag)
    except docker.errors.ImageNotFound:
        return CheckLine("FAIL", "image", f"there is no `{tag}` here", "sd3tune image build")
    except docker.errors.APIError as e:
        why = engine.explained(e, tag)
        return CheckLine("FAIL", "image", str(why), why.hint)
    version = found.labels.get("org.opencontainers.image.version", "unknown")
    revision = found.labels.get("org.opencontainers.image.revision", "unknown")
    words = f"{tag}, {found.attrs['Size'] / GB:.2f} GB, sd3tune {version}, revision {revision[:12]}"
    if version != sd3tune.__version__:
        words += f"; this is {sd3tune.__version__}"
        return CheckLine("warn", "image", words, "sd3tune image build")
    return CheckLine("ok", "image", words)


def _inside(client: Any, container: Container) -> Iterator[CheckLine]:
    """What doctor says in a container that is started as `image run` would."""
    asked = replace(container, words=("doctor", "--json", "--quick"), terminal=False)
    try:
        said, code = foreground.captured(client, asked)
    except ContainerError as e:
        yield CheckLine("FAIL", "container", str(e), e.hint)
        return
    try:
        found = json.loads(said)["findings"]
    except (ValueError, KeyError, TypeError):  # another image's words
        last = said.strip().splitlines()[-1:] or [f"exit code {code} and no word"]
        yield CheckLine(
            "FAIL", "container", f"doctor did not answer: {last[0]}", "sd3tune image run doctor"
        )
        return
    for f in found:
        if f["status"] in ("FAIL", "warn"):
            yield CheckLine(f["status"], f"inside, {f['name']}", f["fact"], f["fix"])
    if code == 0:
        yield CheckLine("ok", "inside", "doctor says that training can start")
