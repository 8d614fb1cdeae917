"""What AMD's kernel driver writes below /sys/class/kfd, and whether this user may open its devices.

Architecture, bus and memory; the name is the device's number. Nothing here raises.
"""

import grp
import os
from pathlib import Path

from sd3tune.backends.observe import system
from sd3tune.backends.observe.amdsmi import UNKNOWN, problem
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey

NAME = "/sys/class/kfd"


def survey(root: Path) -> Survey:
    """The cards, the driver and the installed ROCm, with a problem for every closed device."""
    problems = [*_nodes(root), *_numa(root)]
    gpus = tuple(_kernel_gpu(root, i, p) for i, p in enumerate(topology(root)))
    driver = system.read(root / "sys/module/amdgpu/version").strip() or None
    runtime = system.read(root / "opt/rocm/.info/version").strip() or None
    source = NAME if gpus else None
    sources = {"runtime": "/opt/rocm/.info/version"} if runtime else {}
    return Survey("rocm", gpus, driver, runtime, source, tuple(problems), sources)


def _nodes(root: Path) -> list[Problem]:
    """/dev/kfd and the render nodes must be open to this user, by the group that owns them."""
    found = []
    nodes = [root / "dev/kfd", *sorted((root / "dev/dri").glob("renderD*"))]
    for node in nodes:
        if node.exists() and not os.access(node, os.R_OK | os.W_OK):
            gid = node.stat().st_gid
            try:
                name = grp.getgrgid(gid).gr_name
            except KeyError:
                name = str(gid)
            words = f"/{node.relative_to(root)} is closed to this user: it belongs to group {name}"
            fix = f"sudo usermod -aG {name} $USER and log in again; docker run --group-add {gid} …"
            found.append(problem("no-permission", "fail", words, fix))
    if (root / "dev/kfd").exists() and len(nodes) == 1:
        words = "/dev/kfd is here and no /dev/dri/renderD* is"
        found.append(problem("no-render-node", "fail", words, "docker run --device=/dev/dri …"))
    return found


def _numa(root: Path) -> list[Problem]:
    """AMD's training prerequisites ask for automatic NUMA balancing to be off."""
    if system.read(root / "proc/sys/kernel/numa_balancing").strip() != "1":
        return []
    fix = "sudo sysctl kernel.numa_balancing=0"
    return [problem("numa-balancing", "warn", "automatic NUMA balancing slows training", fix)]


def topology(root: Path) -> list[tuple[Path, dict[str, str]]]:
    """Nodes of the kernel's topology that have compute units, with their properties: the graphics
    cards. A processor is a node without."""
    found = []
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*")
    for node in sorted(nodes, key=lambda p: int(p.name) if p.name.isdigit() else 0):
        said = _properties(node / "properties")
        if (system.whole(said.get("simd_count")) or 0) > 0:
            found.append((node, said))
    return found


def _kernel_gpu(root: Path, index: int, entry: tuple[Path, dict[str, str]]) -> Gpu:
    node, said = entry
    location = system.whole(said.get("location_id")) or 0
    domain = system.whole(said.get("domain")) or 0
    where = f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"
    card = root / "sys/bus/pci/devices" / where
    memory = system.whole(system.read(card / "mem_info_vram_total"))
    if memory is None:
        memory = _bank(node)
    name = system.read(card / "product_name").strip() or f"AMD GPU {said.get('device_id', '?')}"
    version = said.get("gfx_target_version", "0")  # 90402 is 9.4.2
    used = system.whole(system.read(card / "mem_info_vram_used"))
    return Gpu("rocm", index, name, _gfx(version), NAME, total_bytes=memory, used_bytes=used,
               bus_id=where, hip_uuid=system.hip_uuid(said.get("unique_id")))  # fmt: skip


def _bank(node: Path) -> int | None:
    for path in sorted(node.glob("mem_banks/*/properties")):
        said = _properties(path)
        if said.get("heap_type") in ("1", "2"):  # frame buffer, public or private
            return system.whole(said.get("size_in_bytes"))
    return None


def _properties(path: Path) -> dict[str, str]:
    """Lines of a name and a value; others are left out."""
    lines = (line.split() for line in system.read(path).splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _gfx(version: str) -> Arch:
    if not version.isascii() or not version.isdigit() or version == "0":
        return UNKNOWN
    number = int(version)
    major, minor, step = number // 10000, number // 100 % 100, number % 100
    return Arch("gfx", f"gfx{major}{minor:x}{step:x}")
