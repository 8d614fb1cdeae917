"""Apple silicon. Observes through sysctl, sw_vers and system_profiler; then what PyTorch's MPS
device says. Decides nothing (options.py does) and never raises.

Untested on hardware: written against PyTorch's source and Apple's tools' documented output.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sd3tune.backends import mps_sysctl
from sd3tune.backends.facts import (
    Arch,
    Device,
    Facts,
    Gpu,
    Machine,
    Problem,
    Survey,
    TorchReport,
    Vendor,
)
from sd3tune.backends.rules import version

VENDOR: Vendor = "mps"
# Metal recommends 65 to 75 % of memory; the exact figure needs torch (sgl-project/sglang#21443).
USABLE = 0.7


def present(root: Path = Path("/")) -> str | None:
    """Cheap evidence of an Apple chip, also under an x86-64 Python; None when there is none."""
    if platform.system() != "Darwin":
        return None
    if platform.machine() == "arm64" or mps_sysctl.number("hw.optional.arm64") == 1:
        return "sysctl hw.optional.arm64"
    return None


def observe() -> dict[str, Any]:
    """`survey` for the child process."""
    return asdict(survey())


def survey(root: Path = Path("/")) -> Survey:
    """The chip, its memory and GPU cores, the macOS version."""
    name = mps_sysctl.chip_name()
    if name is None:
        words = "sysctl does not name the chip"
        return Survey(VENDOR, problems=(_problem("no-chip", "warn", words, "update macOS"),))
    gpu = Gpu(
        vendor=VENDOR,
        index=0,
        name=name,
        arch=Arch("apple", name.lower().removeprefix("apple ").replace(" ", "-")),
        source="sysctl",
        total_bytes=mps_sysctl.number("hw.memsize"),
        gpu_cores=mps_sysctl.gpu_cores(),
    )
    problems = []
    if mps_sysctl.rosetta():
        problems.append(
            _problem("rosetta", "fail", "this Python is x86-64 and runs under Rosetta: there is no "
                     "PyTorch with MPS for it", "install an arm64 Python: brew install python@3.12")
        )  # fmt: skip
    return Survey(VENDOR, (gpu,), None, mps_sysctl.macos_version(), "sysctl", tuple(problems))


def visible(survey: Survey, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """There is one GPU, and no variable hides it."""
    return survey.gpus


def facts(
    machine: Machine,
    torch: TorchReport,
    packages: Mapping[str, str],
    tools: Mapping[str, bool],
    environ: Mapping[str, str],
) -> Facts:
    """The chip, with what Metal recommends to use of its memory."""
    found = machine.survey(VENDOR)
    shown = not torch.imported or torch.mps_available
    devices = tuple(_device(g, torch) for g in found.gpus) if shown else ()
    return Facts(
        vendor=VENDOR,
        devices=devices,
        torch=torch.version,
        torch_build="mps" if torch.mps_built else "cpu" if torch.version else None,
        runtime=found.runtime,
        ram_bytes=machine.host.ram_bytes,
        packages=packages,
        tools=tools,
        problems=tuple(_compared(found, torch, environ)),
    )


def prepare(*, deterministic: bool) -> None:
    """Process-wide switches, before the first kernel."""
    import torch

    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def used_bytes(index: int) -> int | None:
    """What the Metal driver has given this process."""
    import torch

    return int(torch.mps.driver_allocated_memory())


def _device(gpu: Gpu, torch: TorchReport) -> Device:
    usable = torch.mps_recommended_bytes
    if usable is None and gpu.total_bytes is not None:
        usable = int(gpu.total_bytes * USABLE)
    return Device(0, "mps", gpu.name, gpu.arch, gpu.total_bytes, usable, 0)


def _compared(found: Survey, torch: TorchReport, environ: Mapping[str, str]) -> list[Problem]:
    """Where macOS, the wheel and the settings do not fit together."""
    problems = [p for p in found.problems if p.severity == "fail"]
    if environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO") in ("0", "0.0"):
        words = "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0 lifts the memory limit: the Mac may freeze"
        fix = "unset PYTORCH_MPS_HIGH_WATERMARK_RATIO"
        problems.append(_problem("watermark", "warn", words, fix))
    if torch.version is None or not found.gpus:
        return problems
    old = found.runtime is not None and version(found.runtime) < (15,)
    if old and version(torch.version) >= (2, 15):
        words = f"PyTorch {torch.version} has no MPS before macOS 15, this is {found.runtime}"
        fix = "update macOS, or: SD3TUNE_TORCH='torch>=2.13,<2.15' bash scripts/setup"
        problems.append(_problem("macos-too-old", "fail", words, fix))
    elif torch.imported and not torch.mps_available and not problems:
        words = f"PyTorch {torch.version} says MPS is not available"
        fix = "pip install --force-reinstall torch"
        problems.append(_problem("unavailable", "fail", words, fix))
    return problems


def _problem(name: str, severity: Any, message: str, fix: str) -> Problem:
    return Problem(f"mps.{name}", severity, message, fix)
