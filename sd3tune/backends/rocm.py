"""AMD. Observes: amdsmi, `amd-smi --json` and the kernel's topology side by side; then what PyTorch
sees, joined on bus id. Decides nothing (options.py does) and never raises.

Untested on hardware: written against amdsmi 7.0.2's source and AMD's documentation.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import card_sources, kfd, system
from sd3tune.backends.observe.amdsmi import UNKNOWN, problem
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
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
PCI_VENDOR = "0x1002"
ACCELERATOR_CLASSES = ("0x12", "0x0380")  # Instinct; 0x0300 may be the graphics of a processor
WHEELS = "https://download.pytorch.org/whl/rocm7.2"


def present(root: Path = Path("/")) -> str | None:
    """Evidence of a card that needs no library, in words; None without a card."""
    if (root / "dev/kfd").exists():
        return "/dev/kfd"
    if kfd.topology(root):
        return "/sys/class/kfd"
    cards = system.pci_cards(root, PCI_VENDOR)
    return "PCI bus" if any(kind.startswith(ACCELERATOR_CLASSES) for _, kind in cards) else None


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Survey:
    """The cards as all sources together know them, and a Problem for each source that should have
    answered but did not. ask: gets the answer of one source."""
    found = card_sources.survey(VENDOR, root, ask)
    if found.gpus or (root / "dev/kfd").exists():
        return found
    words = "an AMD card is here and /dev/kfd is not"
    fix = "install amdgpu-dkms; in a container: docker run --device=/dev/kfd --device=/dev/dri "
    fix += "--group-add video --group-add render …"
    return replace(found, problems=(*found.problems, problem("no-driver", "fail", words, fix)))


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
