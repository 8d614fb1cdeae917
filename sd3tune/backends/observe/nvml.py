"""NVML, through nvidia-ml-py (`pynvml`): every getter may be missing, unsupported or refused.

Codes and structures: nvml.h and the binding's own source. Nothing here raises.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sd3tune.backends.observe import card_faults, own_processes, system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Severity, Survey

UNKNOWN = Arch("sm", "unknown")
COMPUTE_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
LIBRARY = "libnvidia-ml.so.1"
LIBRARY_NOT_FOUND = 12
MOST_CARDS = 64
PACKAGE = "pip install nvidia-ml-py"
UPGRADE = "pip install --upgrade nvidia-ml-py"
REINSTALL = "reinstall the NVIDIA driver and reboot"
# NVML return codes at initialisation (nvml.h), what they mean, what helps.
INIT: dict[int, tuple[str, Severity, str, str]] = {
    4: ("nvml-forbidden", "fail", "NVML may not open the driver's device files",
        "look at the owner and mode of /dev/nvidia*; docker run --gpus all …"),
    9: ("driver-not-loaded", "fail", "the NVIDIA kernel driver is not loaded",
        "sudo modprobe nvidia; in a container: docker run --gpus all …"),
    LIBRARY_NOT_FOUND: ("library-not-found", "warn", f"{LIBRARY} is not found",
         "in a container: docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …"),
    15: ("gpu-lost", "fail", "a GPU has fallen off the bus", "reboot, or rent another host"),
    16: ("reset-required", "fail", "a GPU needs a reset", "sudo nvidia-smi --gpu-reset"),
    18: ("version-mismatch", "fail", "NVML and the kernel driver are of different versions",
         "reboot, or restart the container so that it gets the host's current driver libraries"),
    999: ("unknown-error", "fail", "NVML answers Unknown Error: the container lost its devices",
          "restart the container; nvidia-container-toolkit 1.18 in CDI mode prevents it"),
}  # fmt: skip


def survey(root: Path) -> Survey:
    """NVML's answer, or no cards and a Problem that says why. `root` is for the other sources."""
    problems: list[Problem] = []
    library = _loaded(problems)
    if library is None:
        return Survey("cuda", problems=tuple(problems))
    try:
        count = library.ask("nvmlDeviceGetCount") or 0
        if not 0 <= count <= MOST_CARDS:
            library.strange.append(f"nvmlDeviceGetCount: {count}")
            count = 0
        gpus = [gpu for index in range(count) for gpu in _cards(library, index, problems)]
        cuda = library.ask("nvmlSystemGetCudaDriverVersion_v2")
        runtime = f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) and cuda else None
        driver = _text(library.ask("nvmlSystemGetDriverVersion"))
    finally:
        library.ask("nvmlShutdown")
    if library.strange:
        words = f"NVML answers rubbish: {', '.join(dict.fromkeys(library.strange))[:200]}"
        problems.append(problem("nvml-garbage", "warn", words, REINSTALL))
    if library.failed:
        failed = [f"{name} ({error})" for name, error in library.failed.items()]
        words = "nvidia-ml-py and the driver's NVML are of different ages: "
        words += ", ".join(failed)[:200]
        fix = "update the older of them: the NVIDIA driver, or pip install --upgrade nvidia-ml-py"
        problems.append(problem("nvml-age", "warn", words, fix))
    return Survey("cuda", tuple(gpus), driver, runtime, "nvml", tuple(problems))


@dataclass
class _Library:
    """The binding. strange: answers that are none; failed: function -> an error not of NVML's."""

    pynvml: ModuleType
    strange: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def ask(self, name: str, *words: Any) -> Any:
        """One question; None when this binding, driver or card cannot answer it."""
        try:
            return getattr(self.pynvml, name)(*words)
        except (self.pynvml.NVMLError, AttributeError):
            return None
        except UnicodeDecodeError:
            self.strange.append(f"{name} is not UTF-8")
        except Exception as e:  # NVMLLibraryMismatchError, OSError and whatever else it raises
            self.failed[name] = type(e).__name__
        return None

    def constant(self, name: str) -> Any:
        """A constant of the binding; None in one that is too old."""
        return getattr(self.pynvml, name, None)


def _loaded(problems: list[Problem]) -> _Library | None:
    """The binding, imported and started; None and the reason in `problems`."""
    try:
        import pynvml
    except ModuleNotFoundError as e:
        if e.name == "pynvml":
            problems.append(problem("nvml-missing", "warn", "nvidia-ml-py is not installed: fewer "
                                     "checks", PACKAGE))  # fmt: skip
        else:
            problems.append(_broken(e))
        return None
    except Exception as e:  # SyntaxError, OSError: whatever importing a package raises
        problems.append(_broken(e))
        return None
    if not hasattr(pynvml, "nvmlInit") or not hasattr(pynvml, "NVMLError"):
        problems.append(_broken(AttributeError("the module pynvml is another package's")))
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        problems.append(problem(*_not_started(getattr(e, "value", None), e)))
        return None
    except Exception as e:  # NVMLLibraryMismatchError, UnicodeDecodeError, OSError
        problems.append(_broken(e))
        return None
    return _Library(pynvml)


def _broken(error: Exception) -> Problem:
    """Of a binding that fails with an error that is not NVML's own."""
    words = f"nvidia-ml-py does not fit the driver's NVML: {type(error).__name__}: "
    words += " ".join(str(error).split())[:200]
    return problem("nvml-broken", "warn", words, UPGRADE)


def _not_started(code: Any, error: Exception) -> tuple[str, Severity, str, str]:
    """Why NVML did not start. The binding calls every library that cannot be opened not found."""
    if code != LIBRARY_NOT_FOUND:
        return INIT.get(code, ("init", "fail", f"NVML does not start: {error}", REINSTALL))
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as e:
        cause, words = system.load_failure(e)
        if cause != "absent":
            return f"nvml-library-{cause}", "warn", f"{LIBRARY} {words}", REINSTALL
    return INIT[LIBRARY_NOT_FOUND]


def _cards(library: _Library, index: int, problems: list[Problem]) -> list[Gpu]:
    """One card, or its MIG slices."""
    try:
        handle = library.pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as e:  # also what is not NVML's own: see _Library.ask
        if getattr(e, "value", None) == card_faults.NOT_GIVEN:
            words = f"card {index} is closed to this user, job or container: {e}"
            problems.append(problem("gpu-closed", "warn", words, "ask for it where you start"))
            return []
        return [Gpu("cuda", index, "NVIDIA GPU", UNKNOWN, "nvml", error=str(e))]
    card = _nvml_gpu(library, handle, index)
    if (library.ask("nvmlDeviceGetMigMode", handle) or [0])[0] != 1:
        return [card]
    slices = []
    for i in range(library.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = library.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, i)
        if part is not None:
            slices.append(_mig(library, part, card))
    if not slices:
        words = f"MIG is on for {card.label} and it has no slice"
        fix = f"sudo nvidia-smi -i {index} -mig 0, or create one: sudo nvidia-smi mig -cgi 9 -C"
        problems.append(problem("mig-empty", "fail", words, fix))
    return slices


def _nvml_gpu(library: _Library, handle: Any, index: int) -> Gpu:
    def q(name: str, *words: Any) -> Any:
        return library.ask(name, handle, *words)

    memory = _nvml_memory(library, handle)
    major_minor = q("nvmlDeviceGetCudaComputeCapability")
    ecc = q("nvmlDeviceGetEccMode")
    pci = q("nvmlDeviceGetPciInfo")
    default = q("nvmlDeviceGetPowerManagementDefaultLimit")
    limit = q("nvmlDeviceGetEnforcedPowerLimit")
    processes = q("nvmlDeviceGetComputeRunningProcesses")
    return Gpu(
        vendor="cuda",
        index=index,
        name=_text(q("nvmlDeviceGetName")) or "NVIDIA GPU",
        arch=Arch("sm", "sm_{}{}".format(*major_minor)) if major_minor else UNKNOWN,
        source="nvml",
        total_bytes=memory and memory.total,
        used_bytes=memory and memory.used,
        other_processes_bytes=_held(processes, ours=False),
        own_bytes=_held(processes, ours=True),
        uuid=_text(q("nvmlDeviceGetUUID")),
        bus_id=system.bus_id(pci.busId) if pci is not None else None,
        temperature_celsius=_temperature(library, handle),
        power_limit_watts=None if limit is None else limit / 1000,
        power_default_watts=None if default is None else default / 1000,
        ecc_enabled=None if ecc is None else bool(ecc[0]),
        ecc_uncorrected=q(
            "nvmlDeviceGetTotalEccErrors",
            library.constant("NVML_MEMORY_ERROR_TYPE_UNCORRECTED"),
            library.constant("NVML_VOLATILE_ECC"),
        ),
        throttle=_throttle(library, q("nvmlDeviceGetCurrentClocksEventReasons")),
        pcie_generation=q("nvmlDeviceGetCurrPcieLinkGeneration"),
        pcie_generation_max=q("nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_width=q("nvmlDeviceGetCurrPcieLinkWidth"),
        pcie_width_max=q("nvmlDeviceGetMaxPcieLinkWidth"),
        links=_links(library, handle),
        links_max=card_faults.nvlinks(library.pynvml, handle),
        compute_mode=COMPUTE_MODES.get(q("nvmlDeviceGetComputeMode")),
        fabric=card_faults.fabric(library.pynvml, handle),
        error=card_faults.lost(library.pynvml, handle),
    )


def _mig(library: _Library, part: Any, card: Gpu) -> Gpu:
    """A slice: its own UUID and memory, everything else from its card."""
    memory = _nvml_memory(library, part)
    processes = library.ask("nvmlDeviceGetComputeRunningProcesses", part)
    return Gpu(
        vendor="cuda",
        index=card.index,
        name=_text(library.ask("nvmlDeviceGetName", part)) or f"{card.name} MIG",
        arch=card.arch,
        source="nvml",
        total_bytes=memory and memory.total,
        used_bytes=memory and memory.used,
        other_processes_bytes=_held(processes, ours=False),
        own_bytes=_held(processes, ours=True),
        uuid=_text(library.ask("nvmlDeviceGetUUID", part)),
        bus_id=card.bus_id,
        card_uuid=card.uuid,
        compute_mode=card.compute_mode,
        fabric=card.fabric,
        error=card.error,
        temperature_celsius=card.temperature_celsius,
        ecc_enabled=card.ecc_enabled,
        ecc_uncorrected=card.ecc_uncorrected,
        mig=True,
        pcie_generation=card.pcie_generation,
        pcie_generation_max=card.pcie_generation_max,
        pcie_width=card.pcie_width,
        pcie_width_max=card.pcie_width_max,
    )


def _nvml_memory(library: _Library, handle: Any) -> Any:
    """Version 2 does not count what the driver reserves as used; old drivers lack it."""
    version2 = library.constant("nvmlMemory_v2")
    found = version2 and library.ask("nvmlDeviceGetMemoryInfo", handle, version2)
    return found or library.ask("nvmlDeviceGetMemoryInfo", handle)


def _temperature(library: _Library, handle: Any) -> float | None:
    sensor = library.constant("NVML_TEMPERATURE_GPU")
    found = library.ask("nvmlDeviceGetTemperatureV", handle, sensor)
    if found is None:  # the older call, gone in CUDA 14
        found = library.ask("nvmlDeviceGetTemperature", handle, sensor)
    return None if found is None else float(found)


def _throttle(library: _Library, bits: int | None) -> tuple[str, ...] | None:
    if bits is None:
        return None
    names = {
        "SwPowerCap": "power cap",
        "HwSlowdown": "hardware slowdown",
        "SwThermalSlowdown": "software thermal slowdown",
        "HwThermalSlowdown": "hardware thermal slowdown",
        "HwPowerBrakeSlowdown": "power brake",
    }
    known = {
        words: library.constant(f"nvmlClocksEventReason{n}") or 0 for n, words in names.items()
    }
    return tuple(words for words, bit in known.items() if bits & bit)


def _links(library: _Library, handle: Any) -> int | None:
    states = [library.ask("nvmlDeviceGetNvLinkState", handle, i) for i in range(18)]
    known = [s for s in states if s is not None]
    return sum(known) if known else None


def _held(processes: Any, *, ours: bool) -> int | None:
    """Memory of the listed processes that belong to this run, or of the others. In a container
    their numbers may be the host's: then all of them count as others."""
    if processes is None:
        return None
    own = own_processes.numbers()
    return sum(p.usedGpuMemory or 0 for p in processes if (p.pid in own) == ours)


def problem(name: str, severity: Severity, message: str, fix: str) -> Problem:
    return Problem(f"nvidia.{name}", severity, message, fix)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
