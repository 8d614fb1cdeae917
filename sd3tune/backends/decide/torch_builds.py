"""Which build of PyTorch suits a machine: for scripts/setup, and for doctor where the installed one
does not.

Standard library only, since nothing is installed yet. A driver whose version nobody knows counts as
the oldest that any build runs on, and never as new enough.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sd3tune.backends.decide.rules import version
from sd3tune.backends.observe import processor_graphics
from sd3tune.backends.observe.card_sources import LIST_CARDS
from sd3tune.backends.observe.cuda_devices import CUDA_ITSELF
from sd3tune.backends.observe.facts import Gpu, Machine, Survey
from sd3tune.backends.observe.torch_report import RANGE
from sd3tune.errors import HardwareError

WHEELS = "https://download.pytorch.org/whl"
TESTED_CPU = "2.13.0"
# The local label makes the CUDA wheel of the same version impossible.
CPU = f"torch=={TESTED_CPU}+cpu"


@dataclass(frozen=True)
class TorchBuild:
    """A PyTorch for a machine, as words for pip."""

    extra: str  # of sd3tune: cuda, rocm, apple, cpu
    requirement: str
    index_url: str | None  # None: the ordinary package index has it
    reason: str


@dataclass(frozen=True)
class CudaBuild:
    """One of the builds for NVIDIA that PyTorch publishes in the range that sd3tune supports."""

    index: str | None  # folder of WHEELS; None: the ordinary package index
    cuda: int  # major version that the driver must offer: newer minors run by compatibility
    driver: int  # the oldest major version of the driver that offers it
    kernels: tuple[int, ...]  # compute capabilities that binaries are built for

    @property
    def index_url(self) -> str | None:
        return self.index and f"{WHEELS}/{self.index}"

    @property
    def setup(self) -> str:
        """The command that installs this build."""
        words = f"{RANGE} --index-url {self.index_url}" if self.index else RANGE
        return f"SD3TUNE_TORCH='{words}' bash scripts/setup"

    def runs_on(self, driver: str | None, runtime: str | None) -> bool:
        """Whether a driver runs it, by the driver's version and by the newest CUDA that it offers:
        both must allow it where both are known."""
        if not known(driver) and not known(runtime):
            return self.driver == OLDEST_DRIVER
        new = not known(driver) or version(driver)[0] >= self.driver
        return new and (not known(runtime) or version(runtime)[0] >= self.cuda)

    def has_kernels(self, sm: int) -> bool:
        """Binaries of one major generation run on its later minors."""
        return any(built // 10 == sm // 10 and built <= sm for built in self.kernels)


# Drivers: CUDA compatibility guide. Kernels: PYTORCH_RELEASES_CODE_CC of torch 2.13 and 2.15 (the
# build for 12.9 is in the former alone). The best first: 12.9 is for Blackwell under old drivers.
CUDA_BUILDS = (
    CudaBuild(None, 13, 580, (75, 80, 86, 90, 100, 120)),
    CudaBuild("cu126", 12, 525, (50, 60, 70, 75, 80, 86, 90)),
    CudaBuild("cu129", 12, 525, (75, 80, 86, 90, 100, 120)),
)
LAST_OF_OLD = 580  # the last series of drivers for chips before sm_75 (NVIDIA's release notes)
OLDEST_DRIVER = min(build.driver for build in CUDA_BUILDS)


def known(text: str | None) -> bool:
    """Whether a version says a number."""
    return text is not None and text[:1].isdigit()


def cuda_build(driver: str | None, runtime: str | None, chips: Collection[int]) -> CudaBuild | None:
    """The best build that a driver runs and that has kernels for the chips, or for most of them
    where no build has all; None where there is no such build. chips: compute capabilities, 89 for
    8.9; none where nobody knows them."""
    running = [build for build in CUDA_BUILDS if build.runs_on(driver, runtime)]
    served = {build: sum(map(build.has_kernels, chips)) for build in running}
    best = max(running, key=lambda build: served[build], default=None)
    return None if best is not None and chips and not served[best] else best


def other_build(found: Survey) -> str | None:
    """The command that installs the build for these NVIDIA cards; None where their driver runs
    none."""
    build = cuda_build(found.driver, found.runtime, _chips(found.gpus))
    return None if build is None else build.setup


def remedy(found: Survey, card: Gpu) -> str | None:
    """What brings a build with kernels for one of these NVIDIA cards: its command, after a newer
    driver where this one runs no such build; None where no build has kernels for it."""
    chips = _chips((card,))
    build = cuda_build(found.driver, found.runtime, chips)
    if build is not None:
        return build.setup
    for build in CUDA_BUILDS:
        if all(map(build.has_kernels, chips)):
            return f"update the driver to {newest_driver(chips)}, then: {build.setup}"
    return None


def newest_driver(chips: Collection[int]) -> str:
    """The series of drivers to update to, in words. chips: compute capabilities."""
    if chips and max(chips) < CUDA_BUILDS[0].kernels[0]:
        return f"{LAST_OF_OLD}, the last series that runs sm_{max(chips)}"
    return f"{CUDA_BUILDS[0].driver} or newer"


def extra(machine: Machine) -> str:
    """The extra of sd3tune for a machine's accelerator, whichever PyTorch it gets: cuda, rocm,
    apple or cpu."""
    amd = machine.survey("rocm")
    if any(s.vendor == "cuda" for s in machine.surveys) and _has_card(machine.survey("cuda")):
        return "cuda"
    closed = any(p.id == "amd.no-driver" for p in amd.problems)
    if closed or processor_graphics.has_card(machine, "rocm"):
        return "rocm"
    return "apple" if machine.host.os == "Darwin" else "cpu"


def torch_build(machine: Machine) -> TorchBuild:
    """The build for a machine: CUDA wheels go to machines with an NVIDIA card and to no others.
    Raises HardwareError where its driver or its system runs none of them."""
    kind = extra(machine)
    if kind == "cuda":
        return _for_nvidia(machine.survey("cuda"))
    if kind == "rocm":
        cards = [g for g in machine.survey("rocm").gpus if not processor_graphics.found(g)]
        name = cards[0].name if cards else "a card whose driver does not answer"
        return TorchBuild(kind, RANGE, f"{WHEELS}/rocm7.2", f"AMD: {name}")
    if kind == "apple" and machine.host.machine != "arm64":
        raise _no_wheel_for_mac(machine)
    if kind == "apple":
        chip = machine.survey("mps").gpus
        who = chip[0].name if chip else "a chip that sysctl does not name"
        return TorchBuild(kind, RANGE, None, f"macOS: {who}")
    return TorchBuild(kind, CPU, f"{WHEELS}/cpu", "no NVIDIA or AMD card found")


def _has_card(nvidia: Survey) -> bool:
    """A source that can list cards and lists none says that there is none, except where something
    else fails, as the bus that has one. Where no source answers, the evidence by which the vendor
    was found stands."""
    failed = (p.id for p in nvidia.problems if p.severity == "fail")
    doubtful = any(not name.startswith(CUDA_ITSELF) for name in failed)
    return bool(nvidia.gpus) or nvidia.source not in LIST_CARDS or doubtful


def _chips(gpus: tuple[Gpu, ...]) -> set[int]:
    return {gpu.arch.sm for gpu in gpus if gpu.arch.sm is not None}


def _for_nvidia(found: Survey) -> TorchBuild:
    chips = _chips(found.gpus)
    build = cuda_build(found.driver, found.runtime, chips)
    names = [gpu.name for gpu in sorted(found.gpus, key=lambda gpu: not gpu.named)]
    name = names[0] if names else "a card that no source lists"
    driver = _driver(found)
    if build is None:
        raise _refusal(found, name, driver)
    reason = f"NVIDIA: {name}, {driver}"
    if build.index is not None:
        why = "which runs the builds for CUDA 12 and not those for 13"
        if CUDA_BUILDS[0].runs_on(found.driver, found.runtime):
            why = f"and only the builds for CUDA 12 have kernels for sm_{min(chips)}"
        elif not known(found.driver) and not known(found.runtime):
            why = "so that the build for the oldest driver is taken"
        reason += f", {why}"
    without = sorted(sm for sm in chips if not build.has_kernels(sm))
    if without:
        reason += f"; it has no kernels for {', '.join(f'sm_{sm}' for sm in without)}"
    return TorchBuild("cuda", RANGE, build.index_url, reason)


def _no_wheel_for_mac(machine: Machine) -> HardwareError:
    if machine.host.rosetta:
        return HardwareError(
            f"this Python is x86-64 and runs under Rosetta: {RANGE} has no wheel for it",
            hint="install a Python for arm64 and name it: brew install python@3.12, then "
            "PYTHON=/opt/homebrew/bin/python3.12 bash scripts/setup",
        )
    return HardwareError(
        f"this is an Intel Mac: PyTorch has had no wheels for it since 2.3, and {RANGE} is needed",
        hint="use a Mac with an Apple chip, or Linux",
    )


def _driver(found: Survey) -> str:
    """ "driver 535.183.01 (CUDA 12.2)", or what is known of it."""
    if not known(found.driver) and not known(found.runtime):
        return "driver of an unknown version"
    if not known(found.driver):
        return f"driver that offers CUDA {found.runtime}"
    return f"driver {found.driver}" + (f" (CUDA {found.runtime})" if found.runtime else "")


def _refusal(found: Survey, name: str, driver: str) -> HardwareError:
    on_cpu = f"SD3TUNE_TORCH='{CPU} --extra-index-url {WHEELS}/cpu' bash scripts/setup"
    chips = _chips(found.gpus)
    if chips and not any(build.has_kernels(sm) for build in CUDA_BUILDS for sm in chips):
        known_as = ", ".join(f"sm_{sm}" for sm in sorted(chips))
        return HardwareError(
            f"{name} is {known_as}, and no build of {RANGE} has kernels for it",
            hint=f"use another card; for the CPU: {on_cpu}",
        )
    needed = min(
        build.driver for build in CUDA_BUILDS if not chips or any(map(build.has_kernels, chips))
    )
    return HardwareError(
        f"{name} has {driver}, and every build of {RANGE} needs driver {needed} or newer",
        hint=f"update the driver, best to {newest_driver(chips)}, and run this again; for the CPU: "
        f"{on_cpu}",
    )
