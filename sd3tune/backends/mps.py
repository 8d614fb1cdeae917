"""Apple silicon. Observes through sysctl, sw_vers and system_profiler; then what PyTorch's MPS
device says. Decides nothing (options.py does) and never raises.

Untested on hardware: written against PyTorch's source and Apple's tools' documented output.
"""

import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd3tune.backends.decide.limits import LEFT_FOR_MACOS, metal_recommends
from sd3tune.backends.decide.rules import version
from sd3tune.backends.observe import card_sources, mps_settings, sysctl
from sd3tune.backends.observe.card_sources import Ask, ask_in_child
from sd3tune.backends.observe.facts import (
    Device,
    Facts,
    Gpu,
    Machine,
    Note,
    Problem,
    Survey,
    TorchReport,
    Vendor,
)

VENDOR: Vendor = "mps"
ARM_PYTHON = "brew install python@3.12, or: uv python install 3.12 (both arm64)"
ARM_CONDA = "CONDA_SUBDIR=osx-arm64 conda create -n sd3tune python=3.12"


def present(root: Path = Path("/")) -> str | None:
    """Evidence of an Apple chip, in words, also under an x86-64 Python; None without one."""
    if platform.system() != "Darwin":
        return None
    if platform.machine() == "arm64" or sysctl.number("hw.optional.arm64") == 1:
        return "sysctl hw.optional.arm64"
    return None


def survey(root: Path = Path("/"), ask: Ask = ask_in_child) -> Survey:
    """The chip, its memory and GPU cores, the macOS version. ask: gets the answer of a source."""
    found = card_sources.survey(VENDOR, root, ask)
    problems = []
    if found.gpus and sysctl.rosetta():
        words = "this Python is x86-64 and runs under Rosetta: there is no PyTorch with MPS for it"
        problems.append(_problem("rosetta", "fail", words, ARM_PYTHON))
    for left in filter(None, map(_left_for_macos, found.gpus)):
        if left < LEFT_FOR_MACOS:
            words = f"iogpu.wired_limit_mb leaves macOS {left / 2**30:.1f} GiB: the Mac may freeze"
            fix = "sudo sysctl iogpu.wired_limit_mb=0"
            problems.append(_problem("wired-limit", "warn", words, fix))
    return replace(found, problems=(*found.problems, *problems))


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
    shown = shown and all(p.severity != "fail" for p in found.problems)  # Rosetta
    devices = tuple(_device(g, torch, found.runtime, environ) for g in found.gpus) if shown else ()
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
        notes=tuple(_notes(found, tools, environ)),
    )


def prepare(*, deterministic: bool, hidden_kernels: bool, tf32: bool) -> None:
    """Process-wide switches, before the first kernel. hidden_kernels: PyTorch hides none here.
    tf32: there is none here."""
    import torch

    # Nobody has tried which operations MPS would refuse.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def used_bytes(index: int) -> int | None:
    """What the Metal driver has given this process."""
    import torch

    return int(torch.mps.driver_allocated_memory())


def _device(gpu: Gpu, torch: TorchReport, macos: str | None, environ: Mapping[str, str]) -> Device:
    """The device. Its usable memory is the size that Metal recommends, as PyTorch reports it, or
    less when the variables of the allocator set less."""
    usable, source = torch.mps_recommended_bytes, "torch.mps.recommended_max_memory"
    if usable is None and gpu.wired_limit_bytes is not None:
        usable, source = gpu.wired_limit_bytes, "sysctl iogpu.wired_limit_mb"
    if usable is None and gpu.total_bytes is not None:
        usable = metal_recommends(gpu.total_bytes, macos)
        source = "a guess: the share that Metal recommended on others; torch was not asked"
    if usable is not None and mps_settings.share(environ) < 1:
        usable = int(usable * mps_settings.share(environ))
        source += f" x {mps_settings.HIGH}"
    known = source if usable is not None else None
    return Device(0, "mps", gpu.name, gpu.arch, gpu.total_bytes, usable, known, 0)


def _compared(found: Survey, torch: TorchReport, environ: Mapping[str, str]) -> list[Problem]:
    """Problems where macOS, the wheel and the settings do not fit together."""
    problems = [p for p in found.problems if p.severity == "fail"]
    if "CONDA_PREFIX" in environ:
        problems = [replace(p, fix=ARM_CONDA) if p.fix == ARM_PYTHON else p for p in problems]
    told = list(mps_settings.problems(environ))
    if torch.version is not None and found.gpus and not problems:
        told += _macos(found.runtime, torch)
    return problems + told


def _macos(macos: str | None, torch: TorchReport) -> list[Problem]:
    # The wheel of 2.15 is tagged for macOS 14, installs there, and has no MPS
    # (docs/reference/hardware.md, "Apple: versions and memory").
    newer = version(torch.version) >= (2, 15)
    floor = 15 if newer else 14
    if macos is not None and version(macos) < (floor,):
        words = f"PyTorch {torch.version} has no MPS before macOS {floor}, this is {macos}"
        fix = "softwareupdate --list: update macOS"
        if newer and version(macos) >= (14,):
            fix = "update macOS, or: SD3TUNE_TORCH='torch>=2.13,<2.15' bash scripts/setup"
        return [_problem("macos-too-old", "fail", words, fix)]
    if not torch.imported or torch.mps_available:
        return []
    if not torch.mps_built:
        words = f"PyTorch {torch.version} was built without MPS"
        return [_problem("not-built", "fail", words, "pip install --force-reinstall torch")]
    # PyTorch's own message then blames the version of macOS.
    words = f"PyTorch {torch.version} has MPS and was given no Metal device: sandboxes, virtual "
    words += "machines and some remote sessions have none"
    return [_problem("unavailable", "fail", words, "run it in Terminal.app, on the Mac itself")]


def _notes(found: Survey, tools: Mapping[str, bool], environ: Mapping[str, str]) -> list[Note]:
    notes = list(mps_settings.notes(environ))
    for limit in [g.wired_limit_bytes for g in found.gpus if g.wired_limit_bytes is not None]:
        words = f"the GPU may hold {limit / 2**30:.1f} GiB, set by hand until the next start"
        notes.append(Note("mps.wired-limit", words, "sysctl iogpu.wired_limit_mb"))
    if tools.get("c++") is False:
        words = "Xcode's command line tools are missing, with which int4-quanto and int2-quanto "
        words += "are compiled on a Mac: xcode-select --install"
        notes.append(Note("mps.command-line-tools", words, "xcode-select -p"))
    return notes


def _left_for_macos(gpu: Gpu) -> int | None:
    if gpu.wired_limit_bytes is None or gpu.total_bytes is None:
        return None
    return gpu.total_bytes - gpu.wired_limit_bytes


def _problem(name: str, severity: Any, message: str, fix: str) -> Problem:
    return Problem(f"mps.{name}", severity, message, fix)
