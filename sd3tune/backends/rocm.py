"""AMD. Observes: amdsmi, `amd-smi --json` and the kernel's topology side by side; then what PyTorch
sees, joined on bus id. Decides nothing (options.py does) and never raises.

Untested on hardware: written against amdsmi 7.0.2's source and AMD's documentation.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sd3tune.backends.observe import amd_visible, card_faults, card_sources, kfd, system
from sd3tune.backends.observe.amdsmi import UNKNOWN, problem
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.device_cards import matched, own_uuid, torch_cuda
from sd3tune.backends.observe.facts import (
    Arch,
    Device,
    Facts,
    Gpu,
    Machine,
    Problem,
    Survey,
    TorchDevice,
    TorchReport,
    Vendor,
)
from sd3tune.backends.observe.torch_report import RANGE
from sd3tune.backends.observe.visible_devices import against

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
    told = any(p.severity == "fail" for p in found.problems)
    if found.gpus or told or (root / "dev/kfd").exists():
        return found
    loaded = (root / "sys/module/amdgpu").exists()
    why = "/dev/kfd is not" if loaded else "/dev/kfd is not: the module amdgpu is not loaded"
    fix = "install amdgpu-dkms" if loaded else "sudo modprobe amdgpu, or install amdgpu-dkms"
    fix += "; in a container: docker run --device=/dev/kfd --device=/dev/dri --group-add video "
    fix += "--group-add render …"
    missing = problem("no-driver", "fail", f"an AMD card is here and {why}", fix)
    return replace(found, problems=(*found.problems, missing))


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards that a process may use, in the order in which torch numbers them."""
    return amd_visible.selection(survey.gpus, environ).cards


def facts(
    machine: Machine,
    torch: TorchReport,
    packages: Mapping[str, str],
    tools: Mapping[str, bool],
    environ: Mapping[str, str],
) -> Facts:
    """The driver's view and torch's, joined. torch not started: devices are the visible cards."""
    found = machine.survey(VENDOR)
    seen, of = _devices(found, torch, environ)
    devices = tuple(_device(t, of, found, torch, environ) for t in seen)
    devices, problems = card_faults.of_first(devices, environ)
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
        problems=(*_compared(found, of, torch, packages, environ), *problems),
        notes=amd_visible.notes(found.gpus, environ),
    )


def prepare(*, deterministic: bool, hidden_kernels: bool, tf32: bool) -> None:
    """Process-wide switches, before the first kernel. hidden_kernels: attention may use flash
    kernels that PyTorch counts as experimental on this chip; a value that the user set stays. tf32:
    float32 products have all their bits, as PyTorch computes them on ROCm by default."""
    if hidden_kernels:
        os.environ.setdefault("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL", "1")
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


def _devices(
    found: Survey, torch: TorchReport, environ: Mapping[str, str]
) -> tuple[tuple[TorchDevice, ...], dict[int, Gpu]]:
    """torch's devices, and the card or partition of each. torch not started: as the variables have
    it."""
    cards = visible(found, environ)
    if not torch.imported:
        devices = tuple(TorchDevice(i, g.name) for i, g in enumerate(cards))
        return devices, dict(enumerate(cards))
    if torch.hip is None:  # its devices, if it has any, are another vendor's
        return (), {}
    return torch.devices, matched(torch.devices, cards or found.gpus, ordered=True)


def _device(
    seen: TorchDevice,
    of: Mapping[int, Gpu],
    found: Survey,
    torch: TorchReport,
    environ: Mapping[str, str],
) -> Device:
    """torch's device with what the driver says of its card, and everything that is wrong with the
    card. of: torch's number -> its card; a device that no source knows is not in it."""
    arch = Arch("gfx", seen.gfx) if seen.gfx else None
    card, name = of.get(seen.index), seen.name if torch.imported else None
    known = card or Gpu(VENDOR, seen.index, seen.name, arch or UNKNOWN, "torch", uuid=seen.uuid)
    device = torch_cuda(seen.index, known, seen.total_bytes, arch, name)
    if card is None:
        asked = environ.get("SD3TUNE_BACKEND") == VENDOR
        wrong = () if asked else (card_faults.unknown(VENDOR, seen, found, of),)
        return replace(device, physical_index=None, bus_id=seen.bus_id, problems=wrong)
    shared = [other for other in of.values() if other == card]  # partitions, listed as one card
    cards = shared if len(shared) > 1 else found.gpus
    return replace(
        device,
        uuid=own_uuid(card, cards, seen, torch.devices),
        bus_id=card.bus_id,
        chosen_by=amd_visible.chosen_by(found.gpus, environ),
        problems=card_faults.of_card(card, arch or card.arch, torch),
    )


def _compared(
    found: Survey,
    of: Mapping[int, Gpu],
    torch: TorchReport,
    packages: Mapping[str, str],
    environ: Mapping[str, str],
) -> list[Problem]:
    """Problems where the driver's view, the variables and torch's view differ. of: torch's number
    -> its card."""
    if not found.gpus:
        return []
    selected, seen = amd_visible.selection(found.gpus, environ), list(of.values())
    missing = [c for c in selected.cards if selected.certain and c not in seen]
    sick, healthy = card_faults.of_missing(missing, torch)
    problems = [
        *against(selected.faults, len(torch.devices)),
        *_build(found, torch),
        *card_faults.of_lost(selected.cards),
        *sick,
    ]
    sources = () if torch.devices else found.problems  # where nothing starts, they say why
    told = any(p.severity == "fail" for p in (*problems, *sources))
    if healthy and torch.imported and not told:
        problems.append(_unseen(seen, healthy, torch, packages, environ))
    return problems


def _build(found: Survey, torch: TorchReport) -> list[Problem]:
    """What this build of PyTorch lacks for the vendor."""
    if torch.version is None or torch.hip is not None:
        return []
    name = "torch.wrong-vendor-build" if torch.cuda else "torch.cpu-build-beside-gpu"
    built = f"CUDA {torch.cuda}" if torch.cuda else "the CPU"
    words = f"{found.gpus[0].name} is here, PyTorch {torch.version} is built for {built}"
    fix = f"SD3TUNE_TORCH='{RANGE} --index-url {WHEELS}' bash scripts/setup"
    return [Problem(name, "fail", words, fix)]


def _unseen(
    seen: list[Gpu],
    missing: list[Gpu],
    torch: TorchReport,
    packages: Mapping[str, str],
    environ: Mapping[str, str],
) -> Problem:
    """Why torch does not show healthy cards."""
    if not torch.devices and "amdsmi" in packages:
        # pytorch/pytorch#186516: a second libamd_smi makes ROCm builds count 0 devices.
        words = (
            f"PyTorch sees 0 of {len(missing)} GPUs, and the separate package amdsmi "
            f"{packages['amdsmi']} is installed, which hides them from some ROCm builds"
        )
        return Problem("amdsmi.hides-devices", "fail", words, "pip uninstall -y amdsmi")
    if torch.devices_error is None or seen:
        return amd_visible.unseen(seen, missing, environ)
    names = "; ".join(card.label for card in missing)
    words = f"HIP does not start for {names}: {torch.devices_error}"
    fix = "look at rocminfo and dmesg; restart the container with all of /dev/dri"
    return Problem("torch.hip-start", "fail", words, fix)
