"""The computer and the software on it: everything that is not an accelerator."""

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from sd3tune.backends.observe.host_facts import Host
from sd3tune.doctor.finding import Finding, Status

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 2**30
OLDEST, NEWEST = (3, 11), (3, 13)
REQUIRES = "Requires-Dist: "
OF_EXTRA = re.compile(r"(?!.*\bor\b).*;.*\bextra\s*==")  # of an extra alone: nobody asked for it
DISK_BYTES = 40 * GIB  # SD3.5 large with its encoders is 27 GB


def host(host: Host) -> Iterator[Finding]:
    said = host.sources
    yield _python(host)
    system = f"{host.os} {host.os_version or ''} on {host.machine}".replace("  ", " ")
    yield Finding("host.os", "ok", "system", system, said.get("os", "platform"))
    cores = f"{host.cpu_name or 'unknown'}, {host.cpu_count or '?'} usable cores"
    yield Finding("host.cpu", "ok", "cpu", cores, said.get("cpu_count", "os"))
    yield _memory(host)
    yield _disk(host)
    if host.container:
        where = f"{host.container}" + (f" on {host.cloud}" if host.cloud else "")
        where += f", sd3tune's image for {host.image}" if host.image else ""
        yield Finding("host.container", "ok", "container", where, said.get("container", "/"))
    yield from _container(host)


def _python(host: Host) -> Finding:
    version = tuple(int(n) for n in host.python.split(".")[:2])
    if host.rosetta:
        return Finding(
            "host.rosetta", "FAIL", "python",
            f"{host.python} for x86-64 runs under Rosetta: no PyTorch with MPS exists for it",
            "sysctl", "brew install python@3.12, or: uv python install 3.12 (both arm64), or with "
            "conda: CONDA_SUBDIR=osx-arm64 conda create -n sd3tune python=3.12",
        )  # fmt: skip
    if host.os == "Darwin" and host.machine == "x86_64":
        return Finding(
            "host.intel-mac", "FAIL", "processor",
            f"{host.cpu_name or 'Intel'}: PyTorch has had no wheels for Intel Macs since 2.3",
            "platform", "train on a Mac with an Apple chip, or on an NVIDIA or AMD card",
        )  # fmt: skip
    if OLDEST <= version <= NEWEST:
        return Finding("host.python", "ok", "python", host.python, sys.executable)
    return Finding(
        "host.python", "FAIL", "python", f"{host.python}; tested with 3.11 to 3.13",
        sys.executable, "install Python 3.12 and run scripts/setup again",
    )  # fmt: skip


def _memory(host: Host) -> Finding:
    if host.ram_bytes is None:
        return Finding("host.memory", "skip", "memory", "unknown", "nobody told")
    words = f"{host.ram_bytes / GIB:.1f} GiB"
    if host.ram_available_bytes is not None:
        words += f", {host.ram_available_bytes / GIB:.1f} available"
    source = host.sources.get("ram_bytes", "os")
    if host.cgroup_limit_bytes and host.cgroup_limit_bytes < host.ram_bytes:
        words += f", limited to {host.cgroup_limit_bytes / GIB:.1f} GiB by the cgroup"
        source += ", " + host.sources.get("cgroup_limit_bytes", "cgroup")
    return Finding("host.memory", "ok", "memory", words, source)


def _disk(host: Host) -> Finding:
    if host.disk_free_bytes is None:
        return Finding("host.disk", "skip", "disk", "unknown", "statvfs")
    words = f"{host.disk_free_bytes / GIB:.0f} GiB free here"
    if host.disk_free_bytes >= DISK_BYTES:
        return Finding("host.disk", "ok", "disk", words, "statvfs")
    return Finding(
        "host.disk", "warn", "disk", f"{words}; SD3.5 large with its text encoders takes 27 GiB",
        "statvfs", "free some space, or set HF_HOME and output_dir to a larger disk",
    )  # fmt: skip


def _container(host: Host) -> Iterator[Finding]:
    """What it was not given, with the words of `docker run` that are missing; in one of sd3tune's
    images all of them together, ready to be pasted."""
    from sd3tune.backends.observe import container, this_machine

    if host.shm_bytes is not None and not any(lack.id == "shm" for lack in host.lacks):
        words = f"/dev/shm has {host.shm_bytes / 2**20:.0f} MiB"
        yield Finding("container.shm", "ok", "shared memory", words, "statvfs")
    for lack in host.lacks:
        blocks = lack.blocks and not this_machine.cpu_is_asked_for(os.environ)
        status: Status = "FAIL" if blocks else "warn"
        fix = container.fix(host, host.lacks)
        yield Finding(f"container.{lack.id}", status, "container", lack.message, "/dev", fix)


def requirements() -> dict[str, "Requirement"]:
    """What sd3tune's own metadata asks for, by name; without what only an extra brings. Empty where
    it runs from a folder."""
    from packaging.requirements import Requirement

    try:
        found = [Requirement(line) for line in metadata.requires("sd3tune") or ()]
    except metadata.PackageNotFoundError:
        return {}
    return {r.name: r for r in found if r.marker is None}


def wanted(name: str) -> "Requirement | None":
    """The range of versions of a package that sd3tune was tested with; None where it is unknown."""
    try:
        return requirements().get(name)
    except ImportError:  # of `packaging`: `packages` says so
        return None


def lacking() -> dict[str, str]:
    """Distribution that is not installed -> what asks for it: sd3tune, or what sd3tune needs. Read
    from metadata; nothing is imported but `packaging`. Read once a process and import path."""
    return _lacking(tuple(sys.path))


@cache
def _lacking(path: tuple[str, ...]) -> dict[str, str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    missing: dict[str, str] = {}
    seen = {"sd3tune"}
    queue = ["sd3tune"]
    for name in queue:  # it grows
        for requirement in map(Requirement, _asked_by(name)):
            wanted = canonicalize_name(requirement.name)
            marker = requirement.marker
            if wanted in seen or (marker is not None and not marker.evaluate({"extra": ""})):
                continue
            seen.add(wanted)
            queue.append(wanted)
            if next(iter(metadata.distributions(name=wanted)), None) is None:
                missing[f"{requirement.name}{requirement.specifier}"] = name
    return missing


def _asked_by(name: str) -> list[str]:
    """The requirements of a distribution, without most of those that only its extras have. Only the
    head of its metadata is read: the rest is its description, often a hundred times as long."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    text = found.read_text("METADATA")
    if text is None:  # an .egg-info
        return found.requires or []
    head = text.partition("\n\n")[0].splitlines()
    lines = [line.removeprefix(REQUIRES) for line in head if line.startswith(REQUIRES)]
    return [line for line in lines if not OF_EXTRA.match(line)]


def packages() -> Iterator[Finding]:
    """Installed versions against the ranges sd3tune was tested with, and packages of packages that
    are not there."""
    try:
        asked = requirements()
        incomplete = {name: by for name, by in lacking().items() if by != "sd3tune"}
    except ImportError as e:
        yield Finding(
            "software.packaging", "FAIL", "packaging", f"cannot be imported: {e}", "import",
            "pip install --force-reinstall packaging",
        )  # fmt: skip
        return
    for name, by in incomplete.items():
        yield Finding(
            f"software.{name}", "FAIL", name, f"not installed, {by} needs it",
            "importlib.metadata", f"pip install '{name}'",
        )  # fmt: skip
    if not asked:
        yield Finding(
            "software.sd3tune", "warn", "sd3tune", "runs from a folder, not installed",
            "importlib.metadata", "pip install -e .",
        )  # fmt: skip
        return
    good = []
    for name, requirement in asked.items():
        if name == "torch":
            continue  # hardware.torch compares what was imported
        finding = _package(requirement)
        if finding is None:
            good.append(f"{name} {metadata.version(name)}")
        else:
            yield finding
    yield Finding("software.packages", "ok", "packages", ", ".join(good), "importlib.metadata")


def _package(requirement: "Requirement") -> Finding | None:
    name, tested = requirement.name, requirement.specifier
    fix = f"pip install '{name}{tested}'"
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        words = f"not installed, {tested} is needed"
        return Finding(f"software.{name}", "FAIL", name, words, "importlib.metadata", fix)
    if tested.contains(have, prereleases=True):
        return None
    words = f"{have} is installed, tested with {tested}"
    return Finding(f"software.{name}", "warn", name, words, "importlib.metadata", fix)
