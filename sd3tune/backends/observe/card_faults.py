"""What makes a card unusable although its driver lists it: it is lost, another program owns it, its
fabric is down, or the installed PyTorch has no kernels for it.

A Problem of one card belongs to the device of that card, so that a run that does not use the card
is not refused for it. Standard library only, and nothing here raises.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sd3tune.backends.observe import amd_visible, processor_graphics
from sd3tune.backends.observe.facts import (
    GIB,
    MAKERS,
    Arch,
    Device,
    Gpu,
    Problem,
    Severity,
    Survey,
    TorchDevice,
    TorchReport,
    Vendor,
)
from sd3tune.backends.observe.torch_report import RANGE

ROCM = "7.2"  # of the builds that scripts/setup installs
WHEELS = "https://download.pytorch.org/whl"
UP = "completed"
OF_THE_MOMENT = ("device.fuller", "cuda.exclusive-busy")  # ids: gone when others end
NO_KERNELS = "torch.arch-not-in-build"


def of_card(
    card: Gpu, arch: Arch, torch: TorchReport, other_build: str | None = None
) -> tuple[Problem, ...]:
    """What keeps a run from using this card, but not from using another. arch: as PyTorch says it,
    where it does. other_build: NVIDIA: what brings a build with kernels for it, if there is one."""
    return (*_owned(card), *_without_kernels(card, arch, torch, other_build))


def of_missing(
    cards: Sequence[Gpu],
    torch: TorchReport,
    other_build: Callable[[Gpu], str | None] = lambda card: None,
) -> tuple[list[Problem], list[Gpu]]:
    """What is wrong with cards that PyTorch does not show, and those of them that are healthy. A
    chip that no kernels exist for (an old display card) is a warning where another device trains,
    and the graphics of a processor is nothing that anybody misses there."""
    found, healthy = list[Problem](), list[Gpu]()
    if torch.devices:
        cards = [card for card in cards if not processor_graphics.found(card)]
    for card in (c for c in cards if c.error is None):  # of_lost has the others
        wrong = of_card(card, card.arch, torch, other_build(card))
        found += wrong
        healthy += [] if wrong else [card]
    if torch.devices:
        found = [replace(p, severity="warn") if p.id == NO_KERNELS else p for p in found]
    return found, healthy


def of_first(
    devices: tuple[Device, ...], environ: Mapping[str, str]
) -> tuple[tuple[Device, ...], tuple[Problem, ...]]:
    """The devices, and apart from them the problems of the first, which every run uses: they are
    the machine's. Their fix names a device without problems, where there is one. environ: the
    variables under which PyTorch numbers the devices."""
    if not devices:
        return (), ()
    first, *others = devices
    healthy = next((d for d in others if not d.problems), None)
    problems = first.problems
    if healthy is not None:
        more = f"; or train on {healthy.torch_device}, {healthy.name}: {_only(healthy, environ)}"
        problems = tuple(replace(p, fix=p.fix + more) for p in problems)
    problems = problems or _fuller(first, others, environ)
    return (replace(first, problems=()), *others), problems


def _fuller(
    first: Device, others: Sequence[Device], environ: Mapping[str, str]
) -> tuple[Problem, ...]:
    """Others hold much of the first device, and another one has more room."""
    emptier = max((d for d in others if not d.problems), key=lambda d: d.room_bytes or 0,
                  default=first)  # fmt: skip
    lost = (emptier.room_bytes or 0) - (first.room_bytes or 0)
    if not first.free or not emptier.free or (first.occupied_bytes or 0) < GIB or lost < GIB:
        return ()
    words = f"others use {first.torch_device}, where a run of one process trains: {first.free}; "
    words += f"of {emptier.torch_device}, {emptier.name}, {emptier.free}"
    return (Problem("device.fuller", "warn", words, f"{_only(emptier, environ)} trains there"),)


def _only(device: Device, environ: Mapping[str, str]) -> str:
    """The variable that leaves this device alone. HIP's numbers count what ROCR's variable leaves,
    so that one that is set is shortened, and the other is not set beside it."""
    if device.arch.family == "sm":
        return f"CUDA_VISIBLE_DEVICES={device.uuid or device.physical_index}"
    entries = {name: environ[name].split(",") for name in amd_visible.NUMBERS if name in environ}
    if entries:
        known = {name: e[device.index] for name, e in entries.items() if device.index < len(e)}
        return " ".join(f"{name}={entry.strip()}" for name, entry in known.items())
    if device.uuid is not None and device.uuid.startswith("GPU-"):
        return f"ROCR_VISIBLE_DEVICES={device.uuid}"
    return f"HIP_VISIBLE_DEVICES={device.index}"


def _owned(card: Gpu) -> list[Problem]:
    if card.compute_mode == "prohibited":
        words = f"compute mode of {card.label} is PROHIBITED: no program may use it"
        fix = f"sudo nvidia-smi -i {card.index} -c 0"
        return [Problem("cuda.compute-mode", "fail", words, fix)]
    if card.compute_mode == "exclusive" and card.other_processes_bytes:
        words = f"compute mode of {card.label} is EXCLUSIVE_PROCESS, and another process uses it"
        fix = f"end that process (nvidia-smi names it), or: sudo nvidia-smi -i {card.index} -c 0"
        return [Problem("cuda.exclusive-busy", "fail", words, fix)]
    return []


def of_lost(cards: Sequence[Gpu]) -> list[Problem]:
    """The cards that variables leave to a run, and that answer no more: CUDA and HIP then start
    without them, renumber the others, or do not start."""
    others = [card for card in cards if card.error is None]
    return [_lost(card, others) for card in cards if card.error is not None]


def _lost(card: Gpu, others: Sequence[Gpu]) -> Problem:
    nvidia = card.vendor == "cuda"
    fix = "reboot, or rent another machine; look at dmesg for "
    fix += "Xid messages" if nvidia else "amdgpu messages"
    variable = "CUDA_VISIBLE_DEVICES" if nvidia else "ROCR_VISIBLE_DEVICES"
    names = [other.uuid if nvidia else other.hip_uuid for other in others]
    if names and all(names):  # by UUID, since CUDA and HIP number what is left anew
        fix += f"; {variable}={','.join(n for n in names if n)} trains without it"
    words = f"{card.label} does not answer: {card.error}"
    return Problem(f"{'nvidia' if nvidia else 'amd'}.gpu-lost", "fail", words, fix)


def of_fabric(cards: Sequence[Gpu], torch: TorchReport) -> list[Problem]:
    """What connects the cards and is down. Without the fabric of an NVSwitch system CUDA does not
    start. Where it has started, one card alone needs none: a virtual machine often has one card of
    such a system, whose links lead nowhere. Some links up and others down are a fault."""
    started = bool(torch.devices) or not torch.imported  # nobody knows: then no failure
    if started and len(cards) == 1:
        cards = [replace(card, fabric=card.fabric and UP) for card in cards if card.links]
    fix = "start the fabric manager: sudo systemctl restart nvidia-fabricmanager; its version must "
    fix += "be the driver's. Inside a container or a rented machine only its host can do that"
    so = "several processes may hang" if started else "CUDA cannot start"
    severity: Severity = "warn" if started else "fail"
    if down := [card for card in cards if card.fabric not in (None, UP)]:
        states = ", ".join(sorted({str(card.fabric) for card in down}))
        words = f"the NVSwitch fabric is {states} for {len(down)} of {len(cards)} cards, as for "
        return [Problem("nvidia.fabric-down", severity, f"{words}{down[0].label}: {so}", fix)]
    # Bridges between cards in slots leave links unused; on boards with NVSwitch all are connected.
    if dark := [card for card in cards if _linked(card) and card.links != card.links_max]:
        card = dark[0]
        words = f"{card.links} of {card.links_max} NVLink links are up on {card.label}"
        more = f" and others ({len(dark)} of {len(cards)} cards)" if len(dark) > 1 else ""
        words = f"{words}{more}: several processes are slow or hang"
        return [Problem("nvidia.links-down", "warn", words, f"reboot; {fix}")]
    return []


def _linked(card: Gpu) -> bool:
    return bool(card.links_max) and (card.fabric is not None or "SXM" in card.name)


def _without_kernels(
    card: Gpu, arch: Arch, torch: TorchReport, other_build: str | None
) -> list[Problem]:
    kinds = (
        ("gfx",) if arch.family == "gfx" else ("sm_", "compute_")
    )  # another vendor's say nothing
    built = [name for name in torch.arch_list if name.startswith(kinds)]
    if has_kernels(arch, built):
        return []
    words = (
        f"this PyTorch has no kernels for {arch.name}, only for {', '.join(built)}: {card.label}"
    )
    fix = other_build or f"use another card: no build of {RANGE} has kernels for this one"
    if arch.gfx is not None:
        fix = _other_gfx(arch, built, torch.hip)
    return [Problem(NO_KERNELS, "fail", words, fix)]


def has_kernels(arch: Arch, built: Sequence[str]) -> bool:
    """Whether a build has kernels for a chip, as far as both are known. built: the chips it was
    compiled for."""
    return not built or arch.name == "unknown" or any(_runs(arch, name) for name in built)


def _runs(arch: Arch, built: str) -> bool:
    """Whether a chip runs what was compiled for `built`. NVIDIA: binaries of one major generation
    run on its later minors (with suffix `a` on one chip only), PTX (`compute_`) on all later chips.
    AMD: the same chip, or a generic target of its family."""
    if arch.sm is None:
        target = built.split(":")[0]
        family = target.removesuffix("-generic").replace("-", "")
        alike = target.endswith("-generic") and arch.name.startswith(family)
        return target == arch.name or alike or (target, arch.name) == ("gfx9-4-generic", "gfx950")
    match = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", built)
    if match is None:
        return False
    kind, number, suffix = match.group(1), int(match.group(2)), match.group(3)
    if suffix == "a":
        return number == arch.sm
    same_major = number // 10 == arch.sm // 10
    return number <= arch.sm and (same_major or (kind == "compute" and not suffix))


def _other_gfx(arch: Arch, built: list[str], hip: str | None) -> str:
    """Chips of one family have nearly one instruction set; the probes say whether it holds."""
    near = next((n for n in built if re.fullmatch(rf"{arch.name[:-1]}\d", n)), None)
    if near is not None and len(arch.name) == len("gfx1030"):
        version = f"{int(near[3:5])}.{near[5]}.{near[6]}"
        return (
            f"export HSA_OVERRIDE_GFX_VERSION={version} takes the kernels of {near} (not supported "
            "by AMD; sd3tune doctor then shows whether they compute rightly)"
        )
    if (hip or "").startswith(ROCM):
        return f"use another card: no build of {RANGE} for ROCm has kernels for {arch.name}"
    return f"SD3TUNE_TORCH='{RANGE} --index-url {WHEELS}/rocm{ROCM}' bash scripts/setup"


def unknown(vendor: Vendor, seen: TorchDevice, found: Survey, of: Mapping[int, Gpu]) -> Problem:
    """PyTorch shows a device that is none of the driver's cards, or that may be any of them. of:
    PyTorch's number -> the card of the other devices."""
    maker, device = MAKERS[vendor], f"PyTorch shows cuda:{seen.index}, {seen.name}, and"
    name = f"{maker.lower()}.device-unknown"
    if any(card not in of.values() for card in found.gpus):
        words = f"{device} the driver does not say which of its cards that is: what others use of "
        fix = f"look at {found.source}; a source that lists UUIDs would tell"
        return Problem(name, "warn", f"{words}its memory is not counted", fix)
    words = f"{device} no driver source of {maker} knows it: neither its health nor what others "
    fix = f"SD3TUNE_BACKEND={vendor} trains on it as PyTorch shows it"
    return Problem(name, "fail", f"{words}use of it can be seen", fix)
