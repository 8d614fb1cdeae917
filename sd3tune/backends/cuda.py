"""NVIDIA. Observes: NVML, `nvidia-smi`, libcuda and the kernel's files side by side; then what
PyTorch sees, joined on UUID and bus id. Decides nothing (options.py does) and never raises.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sd3tune.backends.decide.rules import version
from sd3tune.backends.decide.torch_builds import CUDA_BUILDS, known, other_build
from sd3tune.backends.observe import card_sources, system
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.facts import (
    Arch,
    Device,
    Facts,
    Gpu,
    Host,
    Machine,
    Problem,
    Survey,
    TorchReport,
    Vendor,
    torch_cuda,
)
from sd3tune.backends.observe.nvml import UNKNOWN, problem
from sd3tune.backends.observe.torch_report import RANGE
from sd3tune.backends.observe.visible_devices import pick

VENDOR: Vendor = "cuda"
PCI_VENDOR = "0x10de"
NEWEST = f"{CUDA_BUILDS[0].driver} or newer"
# Where nobody inside can update a driver: what to ask for instead.
RENTED = {
    "runpod": "`minCudaVersion` {0}, or the CUDA filter of the console",
    "vast": "`cuda_max_good>={0}` in the search",
}


def present(root: Path = Path("/")) -> str | None:
    """Evidence of a card that needs no library, in words; None without a card."""
    for path in ("dev/nvidiactl", "proc/driver/nvidia/version", "usr/lib/wsl/lib/libcuda.so.1"):
        if (root / path).exists():
            return f"/{path}"
    return "PCI bus" if system.pci_cards(root, PCI_VENDOR) else None


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Survey:
    """The cards as all sources together know them, and a Problem for each source that should have
    answered but did not. ask: gets the answer of one source."""
    found = card_sources.survey(VENDOR, root, ask)
    on_bus = len(system.pci_cards(root, PCI_VENDOR))
    if found.gpus or not on_bus or any(p.severity == "fail" for p in found.problems):
        return found
    words = "an NVIDIA card is on the bus and no driver answers"
    fix = "install the NVIDIA driver; in a container: docker run --gpus all …"
    if found.source is not None:
        words = f"{found.source} answers and lists no card, and {on_bus} of NVIDIA's are on the bus"
        fix = "look at dmesg for Xid messages; in a container: docker run --gpus all …"
    return replace(found, problems=(*found.problems, problem("no-driver", "fail", words, fix)))


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards a process may use, in the order torch numbers them."""
    return pick(survey.gpus, environ.get("CUDA_VISIBLE_DEVICES"))


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
        torch_build=torch.cuda and "cu" + torch.cuda.replace(".", ""),
        runtime=found.runtime,
        driver=found.driver,
        arch_list=torch.arch_list,
        ram_bytes=machine.host.memory_bytes,
        packages=packages,
        tools=tools,
        problems=tuple(_compared(found, cards, torch, machine.host, environ)),
    )


def prepare(*, deterministic: bool) -> None:
    """Process-wide switches, before the first kernel."""
    # The default order is fastest first, which NVML does not know.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Dynamic sizes per bucket fragment the default allocator (pytorch docs, CUDA semantics).
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if deterministic:
        # cuBLAS reproducibility (docs.nvidia.com/cuda/cublas, 2.1.4).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    # float32 products may use TF32's ten bits: half precision runs lose nothing by it.
    torch.set_float32_matmul_precision("high")
    # With warn_only attention keeps the kernels whose gradients differ from run to run (seen on an
    # H100 with torch 2.11: 75 of 80 losses; without it none).
    torch.use_deterministic_algorithms(deterministic)


def used_bytes(index: int) -> int | None:
    """Peak of what torch allocated on the device."""
    import torch

    return int(torch.cuda.max_memory_allocated(index))


def _join(index: int, cards: tuple[Gpu, ...], torch: TorchReport) -> Device:
    """torch's device with the card it is: by UUID, then bus id, then place."""
    seen = next(t for t in torch.devices if t.index == index)
    by_uuid = [g for g in cards if seen.uuid and g.uuid and g.uuid.endswith(seen.uuid)]
    by_bus = [g for g in cards if seen.bus_id and g.bus_id == seen.bus_id and not g.mig]
    by_place = [cards[index]] if len(cards) == len(torch.devices) else []
    card = next(iter(by_uuid or by_bus or by_place), None)
    arch = Arch("sm", "sm_{}{}".format(*seen.capability)) if seen.capability else None
    unknown = Gpu(VENDOR, index, seen.name, arch or UNKNOWN, "torch", uuid=seen.uuid)
    return torch_cuda(index, card or unknown, seen.total_bytes, arch, seen.name)


def _compared(
    found: Survey,
    cards: tuple[Gpu, ...],
    torch: TorchReport,
    host: Host,
    environ: Mapping[str, str],
) -> list[Problem]:
    """Problems where the driver's view and torch's differ."""
    if torch.version is None or not found.gpus:
        return []
    if torch.cuda is None:
        built = f"ROCm {torch.hip}" if torch.hip else "the CPU"
        name = "torch.wrong-vendor-build" if torch.hip else "torch.cpu-build-beside-gpu"
        words = f"{found.gpus[0].name} is here, PyTorch {torch.version} is built for {built}"
        return [Problem(name, "fail", words, f"SD3TUNE_TORCH='{RANGE}' bash scripts/setup")]
    problems = _driver_age(found, torch, host)
    if torch.imported and not problems and len(torch.devices) < len(cards):
        problems.append(
            Problem("torch.fewer-devices", "fail" if not torch.devices else "warn",
                    f"the driver shows {len(cards)} GPUs, PyTorch {len(torch.devices)}",
                    "restart the container or the machine; look at dmesg for Xid messages")
        )  # fmt: skip
    sm = {g.arch.sm for g in cards if g.arch.sm}
    built_for = {int(a[3:]) for a in torch.arch_list if a.startswith("sm_") and a[3:].isdigit()}
    for chip in sorted(sm) if built_for else []:
        # Binaries of one major generation run on its later minors.
        if not any(b // 10 == chip // 10 and b <= chip for b in built_for):
            fix = other_build(found) or "use another card: no build has kernels for this one"
            words = f"this PyTorch has no kernels for sm_{chip}: it has {sorted(built_for)}"
            problems.append(Problem("torch.arch-not-in-build", "fail", words, fix))
    return problems


def _driver_age(found: Survey, torch: TorchReport, host: Host) -> list[Problem]:
    """Whether the driver runs the installed build; a newer minor of CUDA runs by compatibility. A
    driver of which nothing is known is left to PyTorch's own answer."""
    wheel, offered = version(torch.cuda)[:2], version(found.runtime)[:2]
    needed = next((build for build in CUDA_BUILDS if build.cuda == wheel[0]), None)
    if needed is None or not (known(found.driver) or known(found.runtime)):
        return []
    if not needed.runs_on(found.driver, found.runtime):
        this = found.driver or f"one that offers CUDA {found.runtime}"
        words = (
            f"PyTorch is built for CUDA {torch.cuda}, which needs driver {needed.driver}; "
            f"this one is {this}"
        )
        other = other_build(found)
        fix = f"update the driver, or: {other}" if other else f"update the driver to {NEWEST}"
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
