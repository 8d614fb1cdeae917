"""Accelerators, and whether the installed PyTorch can use them."""

from collections.abc import Iterator
from dataclasses import replace

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.chips import Chip
from sd3tune.backends.observe import processor_graphics
from sd3tune.backends.observe.facts import MAKERS, Device, Facts, Gpu, Machine, Survey, TorchReport
from sd3tune.doctor import software
from sd3tune.doctor.finding import Finding, Status, of

GIB = 2**30
COMPARED = "survey and torch compared"
HOT_CELSIUS = 90
GRAPHICS = "the graphics of the processor, and no card: no build of PyTorch has kernels for it"
JOINED = "torch and survey joined"
# What a card does when idle or at its power limit is its business; these cost speed.
HARMFUL = ("thermal", "slowdown", "brake", "prochot", "hbm", "socket")


def torch(report: TorchReport, facts: Facts, *, device: bool) -> Iterator[Finding]:
    if report.error is not None:
        yield Finding(
            "torch.import", "FAIL", "torch", f"cannot be imported: {report.error}", "import torch",
            "bash scripts/setup, or pip install --force-reinstall torch",
        )  # fmt: skip
    elif report.version is None:
        yield Finding(
            "torch.import", "FAIL", "torch", "not installed", "importlib.metadata",
            "bash scripts/setup",
        )  # fmt: skip
    else:
        how = "import torch" if report.imported else "installed files; torch was not started"
        build = (report.cuda and f"CUDA {report.cuda}") or (report.hip and f"ROCm {report.hip}")
        words = f"{report.version}, built for {build or ('MPS' if report.mps_built else 'CPU')}"
        yield Finding("torch.import", "ok", "torch", words, how)
        yield from _unsupported(report.version)
    if device:
        met = (
            p for p in facts.problems if not p.id.startswith("container.")
        )  # others are findings of the host
        for p in met:
            name, source = ("driver", p.source) if p.source else ("torch", COMPARED)
            yield of(p, name, source)
        yield from _of_devices(facts)
        yield from (Finding(n.id, "ok", "setting", n.message, n.source) for n in facts.notes)


def _of_devices(facts: Facts) -> Iterator[Finding]:
    """What is wrong with the devices after the first: a run of one process is not refused for
    them."""
    for device in facts.devices:
        for problem in device.problems:
            finding = of(problem, device.torch_device, COMPARED)
            if finding.status == "FAIL":
                words = f"{finding.fact} (a run of several processes would use it)"
                finding = replace(finding, status="warn", fact=words)
            yield finding
        busy = any(p.id == "cuda.exclusive-busy" for p in facts.problems)
        if device.exclusive and not device.problems and not busy:
            yield Finding(
                "cuda.exclusive", "warn", device.torch_device,
                "its compute mode is EXCLUSIVE_PROCESS: one process, and no --nproc, can use it",
                COMPARED, f"sudo nvidia-smi -i {device.physical_index} -c 0",
            )  # fmt: skip


def _unsupported(version: str) -> Iterator[Finding]:
    """A version outside the range that sd3tune's own metadata asks for."""
    wanted = software.wanted("torch")
    if wanted is None or wanted.specifier.contains(version, prereleases=True):
        return
    yield Finding(
        "torch.version", "warn", "torch", f"{version} is installed, tested with {wanted.specifier}",
        "importlib.metadata", "bash scripts/setup, which chooses a build that the driver runs",
    )  # fmt: skip


def accelerators(machine: Machine, facts: Facts) -> Iterator[Finding]:
    known = {p.id for p in facts.problems}
    for survey in machine.surveys:
        name = MAKERS[survey.vendor]
        for problem in survey.problems:
            if problem.id not in known:
                finding = of(problem, name, problem.source or survey.source or "survey")
                yield finding if facts.rest_on(survey) else _beside(finding, survey, facts)
        if survey.driver:
            words = f"{survey.driver}, offers {survey.offers}" if survey.runtime else survey.driver
            source = survey.driver_told_by
            yield Finding(f"{survey.vendor}.driver", "ok", f"{name} driver", words, source)
        if processor_graphics.alone(survey) and not facts.rest_on(survey):
            yield Finding(f"{survey.vendor}.graphics", "skip", name, GRAPHICS, "survey")
        for gpu in survey.gpus:
            several = len(survey.gpus) > 1
            yield from accelerator(gpu, several) if gpu.error is None else _silent(gpu, facts)
    yield from _chosen(machine, facts)


def _beside(finding: Finding, survey: Survey, facts: Facts) -> Finding:
    """A finding of a vendor that does not train. Nothing is lost by it where the vendor has no
    card, and little where another vendor's card trains."""
    if processor_graphics.alone(survey):
        return replace(finding, status="skip", fix="")
    if not facts.accelerated:
        return finding
    if finding.status == "FAIL":
        return replace(finding, status="warn")
    return replace(finding, status="skip", fix="")


def _silent(gpu: Gpu, facts: Facts) -> Iterator[Finding]:
    """A card that no longer answers, where no variable and no run names it."""
    said = (p.message for p in (*facts.problems, *(p for d in facts.devices for p in d.problems)))
    if not any(words.startswith(f"{gpu.label} ") for words in said):
        words = f"{gpu.name} does not answer ({gpu.error}); no run is asked to use it"
        fix = "reboot, or leave it out as it is now"
        yield Finding(f"{gpu.vendor}.device", "warn", _called(gpu), words, gpu.source, fix)


def _called(gpu: Gpu) -> str:
    """With the driver's number, which is not PyTorch's: "NVIDIA GPU 1"."""
    return f"{MAKERS[gpu.vendor]} GPU {gpu.index}"


def accelerator(gpu: Gpu, several: bool = False) -> Iterator[Finding]:
    """One card: its name, then everything that would slow training. several: there are others,
    which may be equal, so that it needs its UUID."""
    name = _called(gpu)
    parts = [f"{gpu.name}, {gpu.arch.name}"]
    if gpu.total_bytes is not None:
        parts.append(f"{gpu.total_bytes / GIB:.1f} GiB")
    if gpu.used_bytes is not None:
        parts.append(f"{gpu.used_bytes / GIB:.1f} used")
    parts += [p for p in (gpu.compute_partition, gpu.memory_partition) if p]
    parts += ["MIG slice"] if gpu.mig else []
    parts += [f"{gpu.links} links"] if gpu.links else []
    parts += [f"{gpu.gpu_cores} GPU cores"] if gpu.gpu_cores else []
    parts += [f"PCI {gpu.bus_id}"] if gpu.bus_id else []
    parts += [p for p in (gpu.hip_uuid or gpu.uuid,) if p and several]
    yield Finding(f"{gpu.vendor}.device", "ok", name, ", ".join(parts), gpu.told_by)
    yield from (Finding(f"{gpu.vendor}.{i}", s, name, words, gpu.source, fix)
                for i, s, words, fix in _health(gpu))  # fmt: skip


def _health(gpu: Gpu) -> Iterator[tuple[str, Status, str, str]]:
    if gpu.ecc_uncorrected:
        words = f"{gpu.ecc_uncorrected} uncorrected memory errors since the driver started"
        yield "ecc", "warn", words, "reset the card or rent another: results may be wrong"
    if gpu.temperature_celsius is not None and gpu.temperature_celsius >= HOT_CELSIUS:
        words = f"{gpu.temperature_celsius:.0f} degrees Celsius"
        yield "hot", "warn", words, "check cooling; hot cards throttle"
    limit, usual = gpu.power_limit_watts, gpu.power_default_watts
    if limit and usual and limit < 0.8 * usual:
        words = f"power is limited to {limit:.0f} of {usual:.0f} W: slower than it should be"
        yield "power", "warn", words, f"sudo nvidia-smi -i {gpu.index} -pl {usual:.0f}"
    harmful = [r for r in gpu.throttle or () if any(h in r.lower() for h in HARMFUL)]
    if harmful:
        yield "throttle", "warn", f"throttled: {', '.join(harmful)}", "check cooling and power"
    if gpu.pcie_width and gpu.pcie_width_max and gpu.pcie_width < gpu.pcie_width_max:
        words = f"PCIe runs at x{gpu.pcie_width} of x{gpu.pcie_width_max}: slow copies"
        yield "pcie", "warn", words, "reseat the card, or rent another host"
    if gpu.occupied_bytes and gpu.occupied_bytes > GIB:
        words = f"other programs or users hold {gpu.occupied_bytes / GIB:.1f} GiB of its memory"
        fix = "stop them, or leave it so: plan judges by what is free. nvidia-smi, or amd-smi "
        yield "shared", "warn", words, f"{fix}process, names those that you may see"


def _chosen(machine: Machine, facts: Facts) -> Iterator[Finding]:
    refused = any(p.severity == "fail" for p in facts.problems)
    if facts.accelerated and not refused:
        first, *others = facts.devices
        yield Finding("device.chosen", "ok", "trains on", _which(first), JOINED)
        for device in others:
            yield Finding("device.more", "ok", "with --nproc", _which(device), JOINED)
        yield from _usable(facts)
        yield from _unlike(facts)
        if facts.untested_on_hardware:
            yield Finding(
                "device.untested", "warn", MAKERS[facts.vendor],
                "sd3tune is untested on this hardware: rules come from documents and recordings",
                "docs/reference/hardware.md",
                "sd3tune doctor --report, and attach the file to an issue of the project",
            )  # fmt: skip
        return
    container = machine.host.container
    if refused:
        return  # reported among the problems
    if any(processor_graphics.has_card(machine, s.vendor) for s in machine.surveys):
        return  # a card that torch cannot use is among the problems
    if any(lack.blocks for lack in machine.host.lacks):
        return  # reported as a finding of the container
    if container:
        yield Finding(
            "container.no-device", "warn", "container",
            f"no accelerator was passed into this {container} container: training on the CPU",
            "/dev", "docker run --gpus all … (NVIDIA), or docker run --device=/dev/kfd "
            "--device=/dev/dri --group-add video --group-add render --ipc=host … (AMD)",
        )  # fmt: skip
        return
    yield Finding(
        "device.chosen",
        "ok",
        "trains on",
        f"cpu {facts.devices[0].name}: no accelerator here, slow but exact",
        "survey",
    )


def _unlike(facts: Facts) -> Iterator[Finding]:
    """Of devices that differ, the first decides for one process, the weakest for several."""
    kinds = {(d.arch.name, d.total_bytes) for d in facts.devices}
    if len(kinds) < 2:
        return
    first, weakest = facts.devices[0], facts.weakest
    words = (
        f"the devices differ: the choices below are those of one process on "
        f"{first.torch_device}; {len(facts.devices)} processes decide for the weakest, "
        f"{weakest.torch_device} {weakest.name}"
    )
    yield Finding("device.unlike", "ok", "devices", words, JOINED)


def _which(device: Device) -> str:
    """PyTorch's number and name, then the driver's number and what decided between them."""
    return f"{device.torch_device} {device.name}{f' ({device.card})' if device.card else ''}"


def _usable(facts: Facts) -> Iterator[Finding]:
    """How much of a device's memory a run may use, where the device shares memory with the host,
    and the source of that number; how much is free, where others may hold some of it."""
    for d in facts.devices:
        if d.free is not None:
            words = d.free if len(facts.devices) == 1 else f"{d.torch_device}: {d.free}"
            yield Finding("device.free", "ok", "free memory", words, "driver")
        if d.usable_source and d.usable_bytes and d.total_bytes:
            words = f"{d.usable_bytes / GIB:.1f} of {d.total_bytes / GIB:.1f} GiB"
            yield Finding("device.usable", "ok", "usable memory", words, d.usable_source)


def catalogued(chip: Chip) -> list[Finding]:
    """The figures of a chip from documents; nothing was measured. Figures that were not compared
    with a page are `skip`."""
    rate = chip.half_flops
    figures = {
        "memory": chip.memory_words,
        "bandwidth": f"{chip.bandwidth_bytes_per_second / 1e9:.0f} GB/s",
        "rate": f"{rate / 1e12:.0f} TFLOP/s of dense 16-bit products" if rate else "",
    }
    what = f"{chip.name}, {chip.arch.name}: from documents, not measured"
    if chips.facts(chip).untested_on_hardware:
        what += "; sd3tune is untested on hardware of this kind"
    found = [Finding("catalog.chip", "ok", "chip", what, "catalogue")]
    for figure, words in figures.items():
        source = chip.source(figure)
        status: Status = "skip" if source == chips.UNVERIFIED else "ok"
        if words:
            found.append(Finding(f"catalog.{figure}", status, figure, words, source))
    return found
