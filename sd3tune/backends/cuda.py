"""NVIDIA. Observes: NVML first, `nvidia-smi --query-gpu` second, the kernel's files last; then what
PyTorch sees, joined on UUID and bus id. Decides nothing (options.py does) and never raises.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sd3tune.backends.decide.rules import version
from sd3tune.backends.observe import nvml, system
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
from sd3tune.backends.observe.nvml import COMPUTE_MODES, UNKNOWN, problem
from sd3tune.backends.observe.torch_report import RANGE
from sd3tune.backends.observe.visible_devices import pick

VENDOR: Vendor = "cuda"
MIB = 2**20
PCI_VENDOR = "0x10de"
CU126 = "https://download.pytorch.org/whl/cu126"
# Where nobody inside can update a driver: what to ask for instead.
RENTED = {
    "runpod": "`minCudaVersion` {0}, or the CUDA filter of the console",
    "vast": "`cuda_max_good>={0}` in the search",
}
SMI_FIELDS = (
    "index,name,uuid,pci.bus_id,driver_version,memory.total,memory.used,compute_cap,"
    "temperature.gpu,power.limit,power.default_limit,ecc.errors.uncorrected.volatile.total,"
    "pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max,"
    "compute_mode,mig.mode.current"
)


def present(root: Path = Path("/")) -> str | None:
    """Evidence of a card that needs no library, in words; None without a card."""
    for path in ("dev/nvidiactl", "proc/driver/nvidia/version", "usr/lib/wsl/lib/libcuda.so.1"):
        if (root / path).exists():
            return f"/{path}"
    return "PCI bus" if system.pci_cards(root, PCI_VENDOR) else None


def observe() -> dict[str, Any]:
    """`survey` for the child process."""
    return asdict(survey())


def survey(root: Path = Path("/")) -> Survey:
    """The cards, from the best source that answers, and a Problem for each source that should have
    answered but did not."""
    problems: list[Problem] = []
    for source in (nvml.read, _smi, _kernel):
        found = source(root, problems)
        if found is not None:
            return Survey(VENDOR, found.gpus, found.driver, found.runtime, found.source,
                          tuple(problems))  # fmt: skip
    if system.pci_cards(root, PCI_VENDOR) and not any(p.severity == "fail" for p in problems):
        words = "an NVIDIA card is on the bus and no driver answers"
        fix = "install the NVIDIA driver; in a container: docker run --gpus all …"
        problems.append(problem("no-driver", "fail", words, fix))
    return Survey(VENDOR, problems=tuple(problems))


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


def _smi(root: Path, problems: list[Problem]) -> Survey | None:
    said = system.run(["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"])
    rows = [[cell.strip() for cell in line.split(",")] for line in (said or "").splitlines()]
    names = SMI_FIELDS.split(",")
    cards = [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
    if not cards:
        return None
    gpus = tuple(_smi_gpu(card) for card in cards)
    return Survey(VENDOR, gpus, cards[0]["driver_version"], None, "nvidia-smi")


def _smi_gpu(card: Mapping[str, str]) -> Gpu:
    capability = card["compute_cap"].replace(".", "")
    mode = card["compute_mode"].lower().replace("_process", "")
    return Gpu(
        vendor=VENDOR,
        index=system.whole(card["index"]) or 0,
        name=card["name"],
        arch=Arch("sm", f"sm_{capability}") if capability.isdigit() else UNKNOWN,
        source="nvidia-smi",
        total_bytes=system.scaled(card["memory.total"], MIB),
        used_bytes=system.scaled(card["memory.used"], MIB),
        uuid=card["uuid"] or None,
        bus_id=system.bus_id(card["pci.bus_id"]),
        temperature_celsius=system.number(card["temperature.gpu"]),
        power_limit_watts=system.number(card["power.limit"]),
        power_default_watts=system.number(card["power.default_limit"]),
        ecc_uncorrected=system.whole(card["ecc.errors.uncorrected.volatile.total"]),
        mig=card["mig.mode.current"] == "Enabled",
        pcie_generation=system.whole(card["pcie.link.gen.current"]),
        pcie_generation_max=system.whole(card["pcie.link.gen.max"]),
        pcie_width=system.whole(card["pcie.link.width.current"]),
        pcie_width_max=system.whole(card["pcie.link.width.max"]),
        compute_mode=mode if mode in COMPUTE_MODES.values() else None,
    )


def _kernel(root: Path, problems: list[Problem]) -> Survey | None:
    """/proc/driver/nvidia: names and identities, no memory and no architecture."""
    folder = root / "proc/driver/nvidia"
    words = system.read(folder / "version").split("Module", 1)[-1].split()
    driver = next((w for w in words if w[0].isdigit() and "." in w), None)
    gpus = []
    for index, path in enumerate(sorted((folder / "gpus").glob("*/information"))):
        lines = (line.split(":", 1) for line in system.read(path).splitlines() if ":" in line)
        said = {name.strip(): value.strip() for name, value in lines}
        gpus.append(
            Gpu(VENDOR, index, said.get("Model", "NVIDIA GPU"), UNKNOWN, "/proc/driver/nvidia",
                uuid=said.get("GPU UUID"), bus_id=system.bus_id(said.get("Bus Location")))
        )  # fmt: skip
    return Survey(VENDOR, tuple(gpus), driver, None, "/proc/driver/nvidia") if gpus else None


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
            fix = f"SD3TUNE_TORCH='{RANGE} --index-url {CU126}' bash scripts/setup"
            words = f"this PyTorch has no kernels for sm_{chip}: it has {sorted(built_for)}"
            problems.append(Problem("torch.arch-not-in-build", "fail", words, fix))
    return problems


def _driver_age(found: Survey, torch: TorchReport, host: Host) -> list[Problem]:
    """CUDA 13 needs driver 580, CUDA 12 needs 525; a newer minor runs by compatibility."""
    wheel, offered = version(torch.cuda)[:2], version(found.runtime)[:2]
    least = {13: 580, 12: 525}.get(wheel[0] if wheel else 0, 0)
    driver = version(found.driver)[:1]
    known = found.runtime is not None
    if (driver and driver[0] < least) or (known and offered[0] < wheel[0]):
        words = (
            f"PyTorch is built for CUDA {torch.cuda}, which needs driver {least}; "
            f"this one is {found.driver}"
        )
        fix = f"update the driver, or: SD3TUNE_TORCH='torch --index-url {CU126}' bash scripts/setup"
        if host.cloud in RENTED:  # where nobody inside can update it
            fix = f"rent another machine: {RENTED[host.cloud].format(torch.cuda)}"
        return [Problem("torch.driver-too-old", "fail", words, fix)]
    if known and offered < wheel:
        words = (
            f"PyTorch is built for CUDA {torch.cuda}, the driver offers {found.runtime}: "
            "works by minor-version compatibility, kernels shipped as PTX may fail"
        )
        return [Problem("torch.driver-minor", "warn", words, "update the driver when you can")]
    return []
