"""What the operating system says: the computer, its limits, and which vendors' cards are in it.

Standard library only, no torch, and nothing here raises, so that a bare checkout can run
`python -m sd3tune.backends.observe.machine`: scripts/setup finds the right PyTorch by it.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from sd3tune.backends import cuda, mps, rocm
from sd3tune.backends.observe import container, sysctl
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.facts import Machine
from sd3tune.backends.observe.host_facts import Host
from sd3tune.backends.observe.system import read
from sd3tune.errors import HardwareError

VENDORS = {"nvidia": cuda, "amd": rocm, "apple": mps}
UNLIMITED = 2**60  # cgroup v1 writes 9223372036854771712 for "no limit"
CLOUDS = {
    "RUNPOD_POD_ID": "runpod",
    "VAST_CONTAINERLABEL": "vast",
    "KUBERNETES_SERVICE_HOST": "kubernetes",
    "COLAB_GPU": "colab",
}


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Machine:
    """The host and one Survey per vendor with evidence of being present, asked side by side. ask:
    gets the answer of one source."""
    vendors = [vendor for vendor in VENDORS.values() if vendor.present(root) is not None]
    with ThreadPoolExecutor(len(VENDORS)) as pool:
        pending = [pool.submit(vendor.survey, root, ask) for vendor in vendors]
        return Machine(host(root), tuple(each.result() for each in pending))


def host(root: Path = Path("/")) -> Host:
    """The computer. An unknown field is None."""
    sources: dict[str, str] = {"os": "platform"}
    ram, available = _ram(root, sources)
    name = platform.system()
    version: str | None = platform.release()
    if name == "Darwin":
        version, sources["os"] = sysctl.macos_version(), "sw_vers"
    inside, shm = _container(root, sources), _shm(root)
    image = os.environ.get("SD3TUNE_IMAGE") or None
    return Host(
        os=name,
        os_version=version or None,
        machine=platform.machine(),
        python=platform.python_version(),
        cpu_name=_cpu_name(root),
        cpu_count=_cpu_count(root, sources),
        ram_bytes=ram,
        ram_available_bytes=available,
        cgroup_limit_bytes=_cgroup_limit(root, sources),
        shm_bytes=shm,
        disk_free_bytes=_disk(),
        container=inside,
        cloud=next((name for key, name in CLOUDS.items() if key in os.environ), None),
        image=image,
        lacks=container.lacks(image, shm, os.environ, root) if inside or image else (),
        rosetta=sysctl.rosetta(),
        sources=sources,
    )


def _ram(root: Path, sources: dict[str, str]) -> tuple[int | None, int | None]:
    lines = dict(
        line.split(":", 1) for line in read(root / "proc/meminfo").splitlines() if ":" in line
    )
    if "MemTotal" in lines:
        sources["ram_bytes"] = "/proc/meminfo"
        amounts = [
            int(lines[key].split()[0]) * 1024 if key in lines else None
            for key in ("MemTotal", "MemAvailable")
        ]
        return amounts[0], amounts[1]
    total = sysctl.number("hw.memsize")
    if total is not None:
        sources["ram_bytes"] = "sysctl hw.memsize"
    return total, None


def _cgroup_limit(root: Path, sources: dict[str, str]) -> int | None:
    """What this process may use before the kernel kills it; psutil shows the whole host."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = read(root / "sys/fs/cgroup" / name).strip()
        if text.isdigit() and int(text) < UNLIMITED:
            sources["cgroup_limit_bytes"] = f"/sys/fs/cgroup/{name}"
            return int(text)
    return None


def _cpu_count(root: Path, sources: dict[str, str]) -> int | None:
    if hasattr(os, "sched_getaffinity"):
        count: int | None = len(os.sched_getaffinity(0))
        sources["cpu_count"] = "affinity"
    else:
        count, sources["cpu_count"] = os.cpu_count(), "os"
    quota = read(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and all(q.isdigit() for q in quota) and int(quota[1]) > 0 and count:
        sources["cpu_count"] = "affinity and cgroup cpu.max"
        count = max(1, min(count, -(-int(quota[0]) // int(quota[1]))))
    return count


def _cpu_name(root: Path) -> str | None:
    for line in read(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return sysctl.chip_name() or platform.processor() or None


def _shm(root: Path) -> int | None:
    try:
        stat = os.statvfs(root / "dev/shm")
    except OSError:
        return None
    return stat.f_frsize * stat.f_blocks


def _disk() -> int | None:
    try:
        return shutil.disk_usage(".").free
    except OSError:
        return None


def _container(root: Path, sources: dict[str, str]) -> str | None:
    for path, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / path).exists():
            sources["container"] = f"/{path}"
            return name
    cgroup = read(root / "proc/1/cgroup")
    for name in ("kubepods", "docker", "lxc", "containerd"):
        if name in cgroup:
            sources["container"] = "/proc/1/cgroup"
            return "kubernetes" if name == "kubepods" else name
    said = os.environ.get("container")  # noqa: SIM112  systemd's own spelling
    if said:
        sources["container"] = "$container"
    return said or None


def main() -> None:
    """Prints this machine as JSON, or which PyTorch suits it. Exit code 1 with an error and a hint
    where none does."""
    from sd3tune.backends.decide import torch_builds

    parser = argparse.ArgumentParser(prog="sd3tune.backends.observe.machine")
    parser.add_argument("--torch", action="store_true", help="requirement, index, extra, reason")
    parser.add_argument("--extra", action="store_true", help="of sd3tune, whatever PyTorch it has")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where its files are")
    words = parser.parse_args()
    machine = survey(words.root)
    try:
        if words.extra:
            print(torch_builds.extra(machine))
        elif words.torch:
            build = torch_builds.torch_build(machine)
            print(build.requirement, build.index_url or "-", build.extra, build.reason, sep="\n")
        else:
            print(json.dumps(asdict(machine), indent=1))
    except HardwareError as e:
        print(f"error: {e}\nhint: {e.hint}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
