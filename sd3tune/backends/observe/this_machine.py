"""This machine: what the operating system, PyTorch and the installed packages say, joined."""

import os
import shutil
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from sd3tune import backends
from sd3tune.backends.observe import (
    amd_visible,
    container,
    kept_torch,
    nvidia_visible,
    processor_graphics,
    sysctl,
)
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.cuda_devices import CUDA_ITSELF
from sd3tune.backends.observe.facts import MAKERS, Facts, Machine, Problem, TorchReport, Vendor
from sd3tune.backends.observe.kept_torch import KeptTorch
from sd3tune.errors import HardwareError
from sd3tune.tables.libraries import LIBRARIES

VENDORS: tuple[Vendor, ...] = ("cuda", "rocm", "mps")
# Beside the libraries of the table: what kernels are built from and what reads the hardware.
ALSO = ("sageattention", "triton", "xformers", "kernels", "nvidia-ml-py", "amdsmi", "flash-attn")
TOOLS = ("ninja", "nvcc", "hipcc")
SICK = ("nvidia.gpu-lost", "nvidia.smi-gpu-lost", "nvidia.reset-required")  # cards, not sources
TORCH_SECONDS = 60.0
NOTHING_KEPT = KeptTorch()


def observe(
    *,
    import_torch: bool = True,
    device: bool = True,
    root: Path = Path("/"),
    awaited: Awaited | None = None,
    kept: KeptTorch = NOTHING_KEPT,
) -> tuple[Machine, TorchReport, Facts]:
    """This machine, what torch sees of it, and the two joined for the vendor that will train.

    import_torch=False: under a second, devices are those the driver shows. device=False: no driver
    is asked, by us or by torch, as if there were none. root: of this machine's files. awaited:
    told what has not answered yet. kept: answers of PyTorch from before. Raises HardwareError only
    for a SD3TUNE_BACKEND that does not exist.
    """
    from sd3tune.backends.observe import machine as host

    asked_backend(os.environ)  # before anything that takes seconds
    awaited = awaited or Awaited()

    def report() -> TorchReport:
        with awaited.answer("import torch"):
            return ask_torch(import_torch, device)

    whole = import_torch and device
    begun = kept.begun() if whole else None
    with ThreadPoolExecutor(1) as pool:
        pending = None if begun else pool.submit(report)
        with awaited.answer("the drivers of the devices"):
            machine = host.survey(root) if device else Machine(host.host(root))
        known = kept_torch.report_of(begun, machine) if begun else None
        torch = known or (pending or pool.submit(report)).result()
    if whole and known is None:
        kept.store(machine, torch)
    return machine, torch, join(machine, torch, packages(), tools(), os.environ)


def ask_torch(import_torch: bool, device: bool) -> TorchReport:
    """What torch says of itself and, with `device`, of the devices."""
    from sd3tune.backends.observe import child, torch_report

    files = torch_report.from_files()
    if not import_torch or files.version is None:
        return files
    depth = "devices" if device else "software"
    answer = child.ask("torch", [depth], timeout_seconds=TORCH_SECONDS)
    if answer.data is None:
        return TorchReport(version=files.version, cuda=files.cuda, hip=files.hip,
                           error=answer.error)  # fmt: skip
    return torch_report.from_answer(answer.data)


def join(
    machine: Machine,
    torch: TorchReport,
    packages: Mapping[str, str],
    tools: Mapping[str, bool],
    environ: Mapping[str, str],
) -> Facts:
    """Facts of the vendor that will train. A card that torch cannot use leaves the CPU, with the
    problem attached: whoever trains must not do so silently."""
    vendor = choose(machine, torch, environ)
    facts: Facts = backends.module(vendor).facts(machine, torch, packages, tools, environ)
    if facts.devices and vendor != "cpu":
        return replace(
            facts, problems=(*facts.problems, *_of_sources(machine, torch, facts, environ))
        )
    cpu: Facts = backends.module("cpu").facts(machine, torch, packages, tools, environ)
    if cpu_is_asked_for(environ):  # so not silent
        return cpu
    surveys = [s for s in machine.surveys if facts.rest_on(s) or not processor_graphics.alone(s)]
    met = _unexplained(facts.problems, (p for s in surveys for p in s.problems))
    if environ.get("SD3TUNE_BACKEND") and not facts.problems and not met:
        words = f"SD3TUNE_BACKEND={vendor}, and no such device is here"
        met = [Problem("backend.no-device", "fail", words, "unset SD3TUNE_BACKEND")]
    met = container.hidden(machine, environ) or met
    met = container.problems(machine.host) or met  # the reason for the others
    if not any(p.severity == "fail" for p in (*facts.problems, *met)):
        met = [*met, *(container.no_device(machine.host) or _no_card(machine))]
    return replace(cpu, problems=(*facts.problems, *met), notes=facts.notes)


def _of_sources(
    machine: Machine, torch: TorchReport, facts: Facts, environ: Mapping[str, str]
) -> list[Problem]:
    """What the sources of the vendor that trains have failed with, so that plan and train say what
    doctor says. Where PyTorch shows the device all the same, a source that is broken is a warning,
    and so is a lost card that a variable leaves out."""
    found = machine.survey(facts.vendor)
    failed = _unexplained(facts.problems, found.problems)
    if not torch.devices:
        return failed
    variables = (nvidia_visible.VISIBLE, *amd_visible.VARIABLES)
    left_out = any(name in environ for name in variables) or any(g.error for g in found.gpus)
    fatal = () if left_out else SICK
    return [p if p.id in fatal else replace(p, severity="warn") for p in failed]


def _unexplained(known: Sequence[Problem], failed: Iterable[Problem]) -> list[Problem]:
    """The failures of sources that are not among the known problems. What a known problem explains,
    or another source with the same cure, is a warning: one cause is one failure."""
    said, cures = {p.id for p in known}, set[str]()
    explained = any(p.severity == "fail" for p in known)
    found = []
    for problem in failed:
        if problem.severity != "fail" or problem.id in said:
            continue
        told = problem.fix in cures or (explained and problem.id.startswith(CUDA_ITSELF))
        cures.add(problem.fix)
        found.append(replace(problem, severity="warn") if told else problem)
    return found


def _no_card(machine: Machine) -> list[Problem]:
    """A driver that is here and lists no card, which nobody has explained."""
    empty = [s for s in machine.surveys if s.vendor in ("cuda", "rocm") and not s.gpus]
    return [
        Problem(
            f"{MAKERS[survey.vendor].lower()}.no-card",
            "fail",
            f"the driver of {MAKERS[survey.vendor]} is here and lists no card",
            "look at dmesg and lspci; in a container, pass the card into it: docker run "
            + (
                "--gpus all …"
                if survey.vendor == "cuda"
                else "--device=/dev/kfd --device=/dev/dri …"
            ),
        )
        for survey in empty
    ]


def cpu_is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whatever else this machine has."""
    return environ.get("SD3TUNE_BACKEND") == "cpu"


def asked_backend(environ: Mapping[str, str]) -> Vendor | None:
    """SD3TUNE_BACKEND; None: it is not set. Raises HardwareError for another word."""
    asked = environ.get("SD3TUNE_BACKEND")
    if not asked:
        return None
    known: tuple[Vendor, ...] = (*VENDORS, "cpu")
    for vendor in known:
        if vendor == asked:
            return vendor
    raise HardwareError(
        f"SD3TUNE_BACKEND={asked} is not a backend", hint=f"use one of {', '.join(known)}"
    )


def choose(machine: Machine, torch: TorchReport, environ: Mapping[str, str]) -> Vendor:
    """SD3TUNE_BACKEND, else the vendor of torch's devices (which no other source may know), else
    the one with cards; of two, the one torch was built for. The graphics of a processor is a card
    only to a build for ROCm, which HSA_OVERRIDE_GFX_VERSION may bring to use it."""
    if (asked := asked_backend(environ)) is not None:
        return asked
    if torch.devices:
        return "cuda" if torch.hip is None else "rocm"
    if torch.hip is not None and machine.survey("rocm").gpus:
        return "rocm"
    with_cards = [v for v in VENDORS if processor_graphics.has_card(machine, v)]
    return with_cards[0] if with_cards else "cpu"


def packages() -> dict[str, str]:
    """Installed versions of everything a rule may ask for."""
    found = {}
    for name in (*LIBRARIES, *ALSO):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def tools() -> dict[str, bool]:
    """Compilers on PATH, and whether site-packages can be written."""
    found = {name: shutil.which(name) is not None for name in TOOLS}
    found["c++"] = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    if sysctl.command_line_tools() is False:
        found["c++"] = False
    found["site_packages_writable"] = os.access(Path(sysconfig.get_path("purelib")), os.W_OK)
    return found
