"""AMD. Observes: amdsmi first, `amd-smi --json` second, the kernel's topology last; then what
PyTorch sees, joined on bus id. Decides nothing (options.py does) and never raises.

Untested on hardware: written against amdsmi 7.0.2's source and AMD's documentation.
"""

import grp
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import amdsmi, system
from sd3tune.backends.observe.amdsmi import UNKNOWN, problem
from sd3tune.backends.observe.facts import (
    Arch,
    Device,
    Facts,
    Gpu,
    Machine,
    Problem,
    Survey,
    TorchReport,
    Vendor,
    torch_cuda,
)
from sd3tune.backends.observe.torch_report import RANGE
from sd3tune.backends.observe.visible_devices import pick

VENDOR: Vendor = "rocm"
MIB = 2**20
PCI_VENDOR = "0x1002"
ACCELERATOR_CLASSES = ("0x12", "0x0380")  # Instinct; 0x0300 may be the graphics of a processor
WHEELS = "https://download.pytorch.org/whl/rocm7.2"


def present(root: Path = Path("/")) -> str | None:
    """Evidence of a card that needs no library, in words; None without a card."""
    if (root / "dev/kfd").exists():
        return "/dev/kfd"
    if _topology(root):
        return "/sys/class/kfd"
    cards = system.pci_cards(root, PCI_VENDOR)
    return "PCI bus" if any(kind.startswith(ACCELERATOR_CLASSES) for _, kind in cards) else None


def observe() -> dict[str, Any]:
    """`survey` for the child process."""
    return asdict(survey())


def survey(root: Path = Path("/")) -> Survey:
    """The cards, from the best source that answers, and a Problem for each source that should have
    answered but did not."""
    problems: list[Problem] = [*_nodes(root), *_numa(root)]
    for source in (amdsmi.read, _cli, _kernel):
        found = source(root, problems)
        if found is not None:
            runtime = found.runtime or _rocm_version(root)
            return Survey(VENDOR, found.gpus, found.driver, runtime, found.source,
                          tuple(problems))  # fmt: skip
    if not (root / "dev/kfd").exists():
        problems.append(
            problem("no-driver", "fail", "an AMD card is here and /dev/kfd is not",
                    "install amdgpu-dkms; in a container: docker run --device=/dev/kfd "
                    "--device=/dev/dri --group-add video --group-add render …")
        )  # fmt: skip
    return Survey(VENDOR, problems=tuple(problems))


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards that PyTorch numbers: ROCR_VISIBLE_DEVICES filters first, then HIP_VISIBLE_DEVICES
    (or CUDA_VISIBLE_DEVICES, with the same meaning) selects and orders."""
    cards = survey.gpus
    if all(g.hip_index is not None for g in cards):
        cards = tuple(sorted(cards, key=lambda g: g.hip_index or 0))
    left = pick(cards, environ.get("ROCR_VISIBLE_DEVICES"))
    return pick(left, environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")))


def facts(
    machine: Machine,
    torch: TorchReport,
    packages: Mapping[str, str],
    tools: Mapping[str, bool],
    environ: Mapping[str, str],
) -> Facts:
    """The driver's view and torch's, joined. torch not started: devices are the visible cards."""
    found = machine.survey(VENDOR)
    cards = visible(found, environ)
    if torch.imported:
        devices = tuple(_join(t.index, cards, torch) for t in torch.devices)
    else:
        devices = tuple(torch_cuda(i, g, None) for i, g in enumerate(cards))
    return Facts(
        vendor=VENDOR,
        devices=devices,
        torch=torch.version,
        torch_build=torch.hip and "rocm" + ".".join(torch.hip.split(".")[:2]),
        runtime=found.runtime,
        driver=found.driver,
        arch_list=torch.arch_list,
        ram_bytes=machine.host.memory_bytes,
        packages=packages,
        tools=tools,
        problems=tuple(_compared(found, cards, torch, packages, environ)),
    )


def prepare(*, deterministic: bool) -> None:
    """Process-wide switches, before the first kernel."""
    # Dynamic sizes per bucket fragment the default allocator (pytorch docs, CUDA semantics).
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    # With warn_only attention keeps the kernels whose gradients differ from run to run (seen on an
    # H100 with torch 2.11: 75 of 80 losses; without it none).
    torch.use_deterministic_algorithms(deterministic)


def used_bytes(index: int) -> int | None:
    """Peak of what torch allocated on the device. ROCm answers to torch.cuda."""
    import torch

    return int(torch.cuda.max_memory_allocated(index))


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


def _rocm_version(root: Path) -> str | None:
    return system.read(root / "opt/rocm/.info/version").strip() or None


def _cli(root: Path, problems: list[Problem]) -> Survey | None:
    """`amd-smi static --json`: a list, or a dict with it under gpu_data since ROCm 7."""
    try:
        said = json.loads(system.run(["amd-smi", "static", "--json"]) or "null")
    except ValueError:
        return None
    entries = (said.get("gpu_data") if isinstance(said, dict) else said) or []
    gpus = tuple(_cli_gpu(e) for e in entries if isinstance(e, dict) and "asic" in e)
    used = _cli_used() if gpus else {}
    gpus = tuple(replace(g, used_bytes=used.get(g.index)) for g in gpus)
    if not gpus:
        return None
    driver = _inside(entries[0], "driver", "version")
    return Survey(VENDOR, gpus, driver if isinstance(driver, str) else None, None, "amd-smi")


def _cli_used() -> dict[int, int]:
    """GPU -> bytes in use, of `amd-smi metric --mem-usage --json`: of the same two shapes."""
    try:
        said = json.loads(system.run(["amd-smi", "metric", "--mem-usage", "--json"]) or "null")
    except ValueError:
        return {}
    found = {}
    for entry in (said.get("gpu_data") if isinstance(said, dict) else said) or []:
        index = system.whole(_inside(entry, "gpu"))
        used = system.scaled(_inside(entry, "mem_usage", "used_vram", "value"), MIB)
        if index is not None and used is not None:
            found[index] = used
    return found


def _cli_gpu(entry: Mapping[str, Any]) -> Gpu:
    size = _inside(entry, "vram", "size")
    size = size.get("value") if isinstance(size, dict) else size
    gfx = _inside(entry, "asic", "target_graphics_version")
    return Gpu(
        vendor=VENDOR,
        index=system.whole(entry.get("gpu")) or 0,
        name=str(_inside(entry, "asic", "market_name") or "AMD GPU"),
        arch=Arch("gfx", gfx) if isinstance(gfx, str) and gfx.startswith("gfx") else UNKNOWN,
        source="amd-smi",
        total_bytes=system.scaled(size, MIB),
        bus_id=system.bus_id(_inside(entry, "bus", "bdf")),
        compute_partition=amdsmi.word(_inside(entry, "partition", "accelerator_partition")
                                           or _inside(entry, "partition", "compute_partition")),
        memory_partition=amdsmi.word(_inside(entry, "partition", "memory_partition")),
    )  # fmt: skip


def _inside(entry: Mapping[str, Any], *names: str) -> Any:
    value: Any = entry
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _kernel(root: Path, problems: list[Problem]) -> Survey | None:
    """KFD topology: architecture, bus and memory; the name is the device's number."""
    gpus = tuple(_kernel_gpu(root, i, p) for i, p in enumerate(_topology(root)))
    driver = system.read(root / "sys/module/amdgpu/version").strip() or None
    return Survey(VENDOR, gpus, driver, None, "/sys/class/kfd") if gpus else None


def _topology(root: Path) -> list[tuple[Path, dict[str, str]]]:
    """Nodes with compute units; the processor is a node without."""
    found = []
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*")
    for node in sorted(nodes, key=lambda p: int(p.name) if p.name.isdigit() else 0):
        lines = (line.split() for line in system.read(node / "properties").splitlines())
        said = {words[0]: words[1] for words in lines if len(words) == 2}
        if int(said.get("simd_count", "0")) > 0:
            found.append((node, said))
    return found


def _kernel_gpu(root: Path, index: int, entry: tuple[Path, dict[str, str]]) -> Gpu:
    node, said = entry
    location = int(said.get("location_id", "0"))
    domain = int(said.get("domain", "0"))
    where = f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"
    card = root / "sys/bus/pci/devices" / where
    memory = system.whole(system.read(card / "mem_info_vram_total"))
    if memory is None:
        memory = _bank(node)
    name = system.read(card / "product_name").strip() or f"AMD GPU {said.get('device_id', '?')}"
    version = said.get("gfx_target_version", "0")  # 90402 is 9.4.2
    used = system.whole(system.read(card / "mem_info_vram_used"))
    return Gpu(VENDOR, index, name, _gfx(version), "/sys/class/kfd", total_bytes=memory,
               used_bytes=used, bus_id=where)  # fmt: skip


def _bank(node: Path) -> int | None:
    for path in sorted(node.glob("mem_banks/*/properties")):
        said = dict(line.split() for line in system.read(path).splitlines() if " " in line)
        if said.get("heap_type") in ("1", "2"):  # frame buffer, public or private
            return system.whole(said.get("size_in_bytes"))
    return None


def _gfx(version: str) -> Arch:
    if not version.isdigit() or version == "0":
        return UNKNOWN
    number = int(version)
    major, minor, step = number // 10000, number // 100 % 100, number % 100
    return Arch("gfx", f"gfx{major}{minor:x}{step:x}")


def _join(index: int, cards: tuple[Gpu, ...], torch: TorchReport) -> Device:
    """torch's device with the card it is: by bus id, then place. HIP's UUIDs are made from serial
    numbers and unproven as a key."""
    seen = next(t for t in torch.devices if t.index == index)
    by_bus = [g for g in cards if seen.bus_id and g.bus_id == seen.bus_id]
    by_place = [cards[index]] if len(cards) == len(torch.devices) else []
    # In CPX mode eight devices share a bus: place tells them apart.
    fits = by_bus if len(by_bus) == 1 else by_place or by_bus
    arch = Arch("gfx", seen.gfx) if seen.gfx else None
    unknown = Gpu(VENDOR, index, seen.name, arch or UNKNOWN, "torch")
    return torch_cuda(index, next(iter(fits), unknown), seen.total_bytes, arch, seen.name)


def _compared(
    found: Survey,
    cards: tuple[Gpu, ...],
    torch: TorchReport,
    packages: Mapping[str, str],
    environ: Mapping[str, str],
) -> list[Problem]:
    """Problems where the driver's view and torch's differ."""
    hip, cuda = environ.get("HIP_VISIBLE_DEVICES"), environ.get("CUDA_VISIBLE_DEVICES")
    problems = []
    if hip is not None and cuda is not None and hip != cuda:
        words = f"HIP_VISIBLE_DEVICES={hip} and CUDA_VISIBLE_DEVICES={cuda} differ: undefined"
        problems.append(problem("visible-conflict", "fail", words, "unset CUDA_VISIBLE_DEVICES"))
    if torch.version is None or not found.gpus:
        return problems
    fix = f"SD3TUNE_TORCH='{RANGE} --index-url {WHEELS}' bash scripts/setup"
    if torch.hip is None:
        name = "torch.wrong-vendor-build" if torch.cuda else "torch.cpu-build-beside-gpu"
        built = f"CUDA {torch.cuda}" if torch.cuda else "the CPU"
        words = f"{found.gpus[0].name} is here, PyTorch {torch.version} is built for {built}"
        return [*problems, Problem(name, "fail", words, fix)]
    if not torch.imported or len(torch.devices) >= len(cards):
        return problems
    if not torch.devices and "amdsmi" in packages:
        # pytorch/pytorch#186516: a second libamd_smi makes ROCm builds count 0 devices.
        words = (
            f"PyTorch sees 0 of {len(cards)} GPUs, and the separate package amdsmi "
            f"{packages['amdsmi']} is installed, which hides them from some ROCm builds"
        )
        return [*problems, Problem("amdsmi.hides-devices", "fail", words,
                                   "pip uninstall -y amdsmi")]  # fmt: skip
    severity: Any = "warn" if torch.devices else "fail"
    words = f"the driver shows {len(cards)} GPUs, PyTorch {len(torch.devices)}"
    fix = "look at rocminfo and dmesg; restart the container with all of /dev/dri"
    return [*problems, Problem("torch.fewer-devices", severity, words, fix)]
