"""NVIDIA. Observes: NVML, `nvidia-smi`, libcuda and the kernel's files side by side; then what
PyTorch sees, joined on UUID and bus id. Decides nothing (options.py does) and never raises.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from sd3tune.backends.decide.rules import version
from sd3tune.backends.decide.torch_builds import (
    CUDA_BUILDS,
    known,
    newest_driver,
    other_build,
    remedy,
)
from sd3tune.backends.observe import card_faults, card_sources, container, nvidia_visible, system
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.cuda_devices import CUDA_ITSELF
from sd3tune.backends.observe.device_cards import matched, torch_cuda
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
from sd3tune.backends.observe.host_facts import Host
from sd3tune.backends.observe.nvml import UNKNOWN, problem
from sd3tune.backends.observe.visible_devices import against

VENDOR: Vendor = "cuda"
PCI_VENDOR = "0x10de"
# What the kernel writes of a card that the driver leaves out.
LEFT_OUT = (
    "sudo dmesg | grep NVRM says why: the driver is too old for the card (update it), or not "
)
LEFT_OUT += "of the open kind that cards from RTX 50 on need, or the card is lost"
EVIDENCE = (
    "dev/nvidiactl", "proc/driver/nvidia/version", "usr/lib/wsl/lib/libcuda.so.1",
    "dev/nvhost-gpu", "dev/nvgpu/igpu0",  # Jetson, whose GPU is on no bus
)  # fmt: skip
# Where nobody inside can update a driver: what to ask for instead.
RENTED = {
    "runpod": "`minCudaVersion` {0}, or the CUDA filter of the console",
    "vast": "`cuda_max_good>={0}` in the search",
}


def present(root: Path = Path("/")) -> str | None:
    """Evidence of a card that needs no library, in words; None without a card."""
    for path in EVIDENCE:
        if (root / path).exists():
            return f"/{path}"
    return "PCI bus" if system.pci_cards(root, PCI_VENDOR) else None


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Survey:
    """The cards as all sources together know them, and a Problem for each source that should have
    answered but did not. ask: gets the answer of one source."""
    found = card_sources.survey(VENDOR, root, ask)
    if found.gpus or not system.pci_cards(root, PCI_VENDOR):
        return found
    if any(p.severity == "fail" and not p.id.startswith(CUDA_ITSELF) for p in found.problems):
        return found  # a source says why
    rest = (replace(p, severity="warn") if p.severity == "fail" else p for p in found.problems)
    return replace(found, problems=(*rest, _no_driver(root, found)))


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards that a process may use, in the order in which torch numbers them."""
    return nvidia_visible.selection(survey.gpus, environ).cards


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
        torch_build=torch.cuda and "cu" + torch.cuda.replace(".", ""),
        runtime=found.runtime,
        driver=found.driver,
        arch_list=torch.arch_list,
        ram_bytes=machine.host.memory_bytes,
        packages=packages,
        tools=tools,
        problems=(*_compared(found, of, torch, machine.host, environ), *problems),
        notes=nvidia_visible.notes(found.gpus, environ),
    )


def prepare(*, deterministic: bool, hidden_kernels: bool, tf32: bool) -> None:
    """Process-wide switches, before the first kernel. hidden_kernels: PyTorch hides none here.
    tf32: float32 products may be computed with ten bits."""
    # The default order is fastest first, which NVML does not know.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Dynamic sizes per bucket fragment the default allocator (pytorch docs, CUDA semantics).
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if deterministic:
        # cuBLAS reproducibility (docs.nvidia.com/cuda/cublas, 2.1.4).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    # float32 products may use TF32's ten bits: half precision runs lose nothing by it.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    # With warn_only attention keeps the kernels whose gradients differ from run to run (seen on an
    # H100 with torch 2.11: 75 of 80 losses; without it none).
    torch.use_deterministic_algorithms(deterministic)


def used_bytes(index: int) -> int | None:
    """Peak of what torch allocated on the device."""
    import torch

    return int(torch.cuda.max_memory_allocated(index))


def _no_driver(root: Path, found: Survey) -> Problem:
    """A card on the bus and no driver: the kernel module is not loaded, or not installed."""
    inside = "in a container: docker run --gpus all …"
    if found.source in card_sources.LIST_CARDS:
        title = card_sources.SOURCES[found.source].title
        words = f"{title} answers and lists no card, and one of NVIDIA's is on the bus"
        return problem("no-driver", "fail", words, f"{LEFT_OUT}; {inside}")
    if (root / "proc/driver/nvidia/version").exists():
        words = "an NVIDIA card is on the bus, its kernel module is loaded and no source names it"
        return problem("no-driver", "fail", words, f"{LEFT_OUT}; {inside}")
    if (root / "sys/module/nouveau").exists():
        words = "an NVIDIA card is on the bus with the driver nouveau, which cannot compute"
        fix = "install the NVIDIA driver, which replaces nouveau, and reboot"
        return problem("module-not-loaded", "fail", words, fix)
    if any(any(root.glob(f"{folder}/libcuda.so.1")) for folder in container.LIBRARIES):
        words = "an NVIDIA card is on the bus and the kernel module nvidia is not loaded"
        fix = (
            "sudo modprobe nvidia, and where that fails: dkms status (a new kernel), Secure Boot, "
        )
        fix += "sudo dmesg | grep NVRM (a driver that is too old for the card)"
        return problem("module-not-loaded", "fail", words, f"{fix}; {inside}")
    words = "an NVIDIA card is on the bus and no driver answers"
    return problem("no-driver", "fail", words, f"install the NVIDIA driver; {inside}")


def _devices(
    found: Survey, torch: TorchReport, environ: Mapping[str, str]
) -> tuple[tuple[TorchDevice, ...], dict[int, Gpu]]:
    """torch's devices, and the card of each. torch not started: as CUDA's rules have it."""
    cards = visible(found, environ)
    if not torch.imported:
        cards = nvidia_visible.shown(cards)
        devices = tuple(TorchDevice(i, g.name) for i, g in enumerate(cards))
        return devices, dict(enumerate(cards))
    if torch.cuda is None:  # its devices, if it has any, are another vendor's
        return (), {}
    ordered = _ordered(found, environ)
    pool = cards if ordered and cards else found.gpus
    of = matched(torch.devices, pool, ordered=ordered)
    if ordered and len(of) < len(torch.devices):  # slices without any identity in torch
        of = matched(torch.devices, nvidia_visible.shown(cards), ordered=ordered) | of
    return torch.devices, of


def _ordered(found: Survey, environ: Mapping[str, str]) -> bool:
    """CUDA's numbers follow the driver's order: by bus, or of cards that are alike."""
    alike = len({(g.name, g.total_bytes) for g in found.gpus}) == 1
    return nvidia_visible.by_bus(environ) or alike


def _device(
    seen: TorchDevice,
    of: Mapping[int, Gpu],
    found: Survey,
    torch: TorchReport,
    environ: Mapping[str, str],
) -> Device:
    """torch's device with what the driver says of its card, and everything that is wrong with the
    card. of: torch's number -> its card; a device that no source knows is not in it."""
    card = of.get(seen.index)
    arch = Arch("sm", "sm_{}{}".format(*seen.capability)) if seen.capability else None
    name = seen.name if torch.imported else None
    known = card or Gpu(VENDOR, seen.index, seen.name, arch or UNKNOWN, "torch", uuid=seen.uuid)
    device = torch_cuda(seen.index, known, seen.total_bytes, arch, name)
    if card is None:
        asked = environ.get("SD3TUNE_BACKEND") == VENDOR
        wrong = () if asked else (card_faults.unknown(VENDOR, seen, found, of),)
        return replace(device, physical_index=None, bus_id=seen.bus_id, problems=wrong)
    if not torch.imported and not _ordered(found, environ):  # which of them, only CUDA knows
        device = replace(device, physical_index=None, uuid=None)
        card = replace(card, bus_id=None)
    return replace(
        device,
        bus_id=card.bus_id,
        chosen_by=nvidia_visible.chosen_by(found.gpus, environ),
        exclusive=card.compute_mode == "exclusive",
        problems=card_faults.of_card(card, arch or card.arch, torch, remedy(found, card)),
    )


def _compared(
    found: Survey,
    of: Mapping[int, Gpu],
    torch: TorchReport,
    host: Host,
    environ: Mapping[str, str],
) -> list[Problem]:
    """Problems where the driver's view, the variables and torch's view differ. of: torch's number
    -> its card."""
    if not found.gpus:
        return []
    selected, seen = nvidia_visible.selection(found.gpus, environ), list(of.values())
    missing = [c for c in selected.cards if selected.certain and c not in seen]
    if not _ordered(found, environ):  # numbers are CUDA's: only their count is known
        others = [card for card in found.gpus if card not in seen]
        missing = others[: max(0, len(selected.cards) - len(seen))]
    sick, healthy = card_faults.of_missing(missing, torch, partial(remedy, found))
    problems = [
        *against(selected.faults, len(torch.devices)),
        *_build(found, torch, host),
        *card_faults.of_fabric(selected.cards, torch),
        *card_faults.of_lost(selected.cards),
        *sick,
    ]
    sources = () if torch.devices else found.problems  # where nothing starts, they say why
    told = any(p.severity == "fail" for p in (*problems, *sources))
    if healthy and torch.imported and not told:
        problems += _unseen(seen, healthy, torch, environ)
    return problems


def _build(found: Survey, torch: TorchReport, host: Host) -> list[Problem]:
    """What this build of PyTorch lacks for the vendor, or for its driver."""
    if torch.version is None:
        return []
    if torch.cuda is not None:
        return _driver_age(found, torch, host)
    built = f"ROCm {torch.hip}" if torch.hip else "the CPU"
    name = "torch.wrong-vendor-build" if torch.hip else "torch.cpu-build-beside-gpu"
    words = f"{found.gpus[0].name} is here, PyTorch {torch.version} is built for {built}"
    newest = newest_driver({g.arch.sm for g in found.gpus if g.arch.sm is not None})
    fix = other_build(found) or f"update the driver to {newest}, then run scripts/setup again"
    return [Problem(name, "fail", words, fix)]


def _unseen(
    seen: list[Gpu], missing: list[Gpu], torch: TorchReport, environ: Mapping[str, str]
) -> list[Problem]:
    """Why torch does not show healthy cards: in CUDA's own words, where it has said something."""
    if torch.devices_error is None or seen:
        return [nvidia_visible.unseen(seen, missing, environ)]
    names = "; ".join(card.label for card in missing)
    words = f"CUDA does not start for {names}: {torch.devices_error}"
    fix = "restart the container or the machine; look at dmesg for Xid messages"
    if "802" in torch.devices_error or "not yet initialized" in torch.devices_error:
        fix = "start the fabric manager: sudo systemctl restart nvidia-fabricmanager; inside a "
        fix += "container or a rented machine only its host can do that"
    elif "busy or unavailable" in torch.devices_error:
        fix = "end the program that holds the card, or: sudo nvidia-smi -c 0"
    return [Problem("torch.cuda-start", "fail", words, fix)]


def _driver_age(found: Survey, torch: TorchReport, host: Host) -> list[Problem]:
    """Whether the driver runs the installed build; a newer minor of CUDA runs by compatibility. A
    driver of which nothing is known is left to PyTorch's own answer, and a build that has kernels
    for none of the cards to card_faults.py: no driver makes it run."""
    if not any(card_faults.has_kernels(g.arch, torch.arch_list) for g in found.gpus):
        return []
    wheel, offered = version(torch.cuda)[:2], version(found.runtime)[:2]
    needed = next((build for build in CUDA_BUILDS if build.cuda == wheel[0]), None)
    mixed = any(p.id.endswith("mismatch") for p in found.problems)  # its age is not its fault
    if mixed or needed is None or not (known(found.driver) or known(found.runtime)):
        return []
    if not needed.runs_on(found.driver, found.runtime):
        if torch.devices:  # it has started: NVIDIA's compatibility package (cuda-compat) is here
            return []
        this = found.driver or f"one that offers CUDA {found.runtime}"
        words = (
            f"PyTorch is built for CUDA {torch.cuda}, which needs driver {needed.driver}; "
            f"this one is {this}"
        )
        other = other_build(found)
        newest = f"{CUDA_BUILDS[0].driver} or newer"
        fix = f"update the driver, or: {other}" if other else f"update the driver to {newest}"
        if host.cloud in RENTED:  # where nobody inside can update it
            fix = f"rent another machine: {RENTED[host.cloud].format(torch.cuda)}"
        return [Problem("torch.driver-too-old", "fail", words, fix)]
    if known(found.runtime) and offered < wheel:
        words = (
            f"PyTorch is built for CUDA {torch.cuda}, the driver offers {found.runtime}: "
            "works by minor-version compatibility, kernels shipped as PTX may fail"
        )
        return [Problem("torch.driver-minor", "warn", words, "update the driver when you can")]
    return []
