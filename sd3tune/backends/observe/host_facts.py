"""What is known of the computer around the accelerator: a frozen dataclass, without conclusions.

`None` always means "unknown". The unit is in every name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lack:
    """Something a container should have been started with (container.py finds them)."""

    id: str  # stable, "no-nvidia"
    message: str
    flags: tuple[str, ...]  # words of `docker run`
    blocks: bool = True  # no accelerator without it


@dataclass(frozen=True)
class Host:
    """The computer around the accelerator."""

    os: str  # "Linux", "Darwin"
    os_version: str | None
    machine: str  # "x86_64", "aarch64", "arm64"
    python: str  # "3.11.7"
    cpu_name: str | None = None
    cpu_count: int | None = None  # usable by this process: affinity and cgroup quota included
    ram_bytes: int | None = None
    ram_available_bytes: int | None = None
    cgroup_limit_bytes: int | None = None
    shm_bytes: int | None = None
    disk_free_bytes: int | None = None  # of the working directory
    container: str | None = None  # "docker", "podman", "kubernetes", …; None: not in one
    cloud: str | None = None  # "runpod", "vast", …
    image: str | None = None  # "cuda", "rocm": one of sd3tune's images; None: no such
    lacks: tuple[Lack, ...] = ()  # what this container was not given
    rosetta: bool = False  # x86-64 Python translated on an Apple chip
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> where it was read

    @property
    def memory_bytes(self) -> int | None:
        """What a process may use: memory, or the cgroup's limit where that is less."""
        known = [n for n in (self.ram_bytes, self.cgroup_limit_bytes) if n is not None]
        return min(known, default=None)
