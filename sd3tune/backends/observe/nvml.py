"""NVML, through nvidia-ml-py (`pynvml`): every getter may be missing, unsupported or refused.

Codes and structures: nvml.h and the binding's own source. Nothing here raises.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from sd3tune.backends.observe import own_processes, system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey

UNKNOWN = Arch("sm", "unknown")
COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive"}
REINSTALL = "reinstall the NVIDIA driver and reboot"
# NVML return codes at initialisation (nvml.h), what they mean, what helps.
INIT = {
    9: ("driver-not-loaded", "fail", "the NVIDIA kernel driver is not loaded",
        "sudo modprobe nvidia; in a container: docker run --gpus all …"),
    12: ("library-not-found", "warn", "libnvidia-ml.so.1 is not found",
         "in a container: docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …"),
    15: ("gpu-lost", "fail", "a GPU has fallen off the bus", "reboot, or rent another host"),
    16: ("reset-required", "fail", "a GPU needs a reset", "sudo nvidia-smi --gpu-reset"),
    18: ("version-mismatch", "fail", "NVML and the kernel driver are of different versions",
         "reboot, or restart the container so that it gets the host's current driver libraries"),
    999: ("unknown-error", "fail", "NVML answers Unknown Error: the container lost its devices",
          "restart the container; nvidia-container-toolkit 1.18 in CDI mode prevents it"),
}  # fmt: skip


def read(root: Path, problems: list[Problem]) -> Survey | None:
    """NVML's answer, or None with a Problem that says why. `root` is for the other sources."""
    try:
        import pynvml
    except ImportError:
        problems.append(problem("nvml-missing", "warn", "nvidia-ml-py is not installed: fewer "
                                 "checks", "pip install nvidia-ml-py"))  # fmt: skip
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        known = INIT.get(e.value, ("init", "fail", f"NVML does not start: {e}", REINSTALL))
        problems.append(problem(*known))
        return None
    try:
        gpus: list[Gpu] = []
        for index in range(_q(pynvml, "nvmlDeviceGetCount") or 0):
            gpus += _nvml_card(pynvml, index, problems)
        cuda = _q(pynvml, "nvmlSystemGetCudaDriverVersion_v2")
        runtime = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
        driver = _text(_q(pynvml, "nvmlSystemGetDriverVersion"))
        return Survey("cuda", tuple(gpus), driver, runtime, "nvml")
    finally:
        _q(pynvml, "nvmlShutdown")


def _nvml_card(pynvml: ModuleType, index: int, problems: list[Problem]) -> list[Gpu]:
    """One card, or its MIG slices."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as e:
        words = f"GPU {index} does not answer: {e}"
        problems.append(problem("gpu-unusable", "warn", words, "reboot, or rent another host"))
        return []
    card = _nvml_gpu(pynvml, handle, index)
    if (_q(pynvml, "nvmlDeviceGetMigMode", handle) or [0])[0] != 1:
        return [card]
    slices = []
    for i in range(_q(pynvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = _q(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, i)
        if part is not None:
            slices.append(_mig(pynvml, part, card))
    if not slices:
        words = f"MIG is on for {card.name} and it has no slice"
        fix = f"sudo nvidia-smi -i {index} -mig 0, or create one: sudo nvidia-smi mig -cgi 9 -C"
        problems.append(problem("mig-empty", "fail", words, fix))
    return slices


def _nvml_gpu(pynvml: ModuleType, handle: Any, index: int) -> Gpu:
    def q(name: str, *words: Any) -> Any:
        return _q(pynvml, name, handle, *words)

    memory = _nvml_memory(pynvml, handle)
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
        temperature_celsius=_temperature(pynvml, handle),
        power_limit_watts=None if limit is None else limit / 1000,
        power_default_watts=None if default is None else default / 1000,
        ecc_enabled=None if ecc is None else bool(ecc[0]),
        ecc_uncorrected=q(
            "nvmlDeviceGetTotalEccErrors",
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
        throttle=_throttle(pynvml, q("nvmlDeviceGetCurrentClocksEventReasons")),
        pcie_generation=q("nvmlDeviceGetCurrPcieLinkGeneration"),
        pcie_generation_max=q("nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_width=q("nvmlDeviceGetCurrPcieLinkWidth"),
        pcie_width_max=q("nvmlDeviceGetMaxPcieLinkWidth"),
        links=_links(pynvml, handle),
        compute_mode=COMPUTE_MODES.get(q("nvmlDeviceGetComputeMode")),
    )


def _mig(pynvml: ModuleType, part: Any, card: Gpu) -> Gpu:
    """A slice: its own UUID and memory, everything else from its card."""
    memory = _nvml_memory(pynvml, part)
    processes = _q(pynvml, "nvmlDeviceGetComputeRunningProcesses", part)
    return Gpu(
        vendor="cuda",
        index=card.index,
        name=_text(_q(pynvml, "nvmlDeviceGetName", part)) or f"{card.name} MIG",
        arch=card.arch,
        source="nvml",
        total_bytes=memory and memory.total,
        used_bytes=memory and memory.used,
        other_processes_bytes=_held(processes, ours=False),
        own_bytes=_held(processes, ours=True),
        uuid=_text(_q(pynvml, "nvmlDeviceGetUUID", part)),
        bus_id=card.bus_id,
        temperature_celsius=card.temperature_celsius,
        ecc_enabled=card.ecc_enabled,
        ecc_uncorrected=card.ecc_uncorrected,
        mig=True,
        pcie_generation=card.pcie_generation,
        pcie_generation_max=card.pcie_generation_max,
        pcie_width=card.pcie_width,
        pcie_width_max=card.pcie_width_max,
    )


def _q(pynvml: ModuleType, name: str, *words: Any) -> Any:
    """One question; None when this binding, driver or card cannot answer it."""
    function = getattr(pynvml, name, None)
    if function is None:
        return None
    try:
        return function(*words)
    except pynvml.NVMLError:
        return None


def _nvml_memory(pynvml: ModuleType, handle: Any) -> Any:
    """Version 2 does not count what the driver reserves as used; old drivers lack it."""
    version2 = getattr(pynvml, "nvmlMemory_v2", None)
    found = version2 and _q(pynvml, "nvmlDeviceGetMemoryInfo", handle, version2)
    return found or _q(pynvml, "nvmlDeviceGetMemoryInfo", handle)


def _temperature(pynvml: ModuleType, handle: Any) -> float | None:
    sensor = pynvml.NVML_TEMPERATURE_GPU
    found = _q(pynvml, "nvmlDeviceGetTemperatureV", handle, sensor)
    if found is None:  # the older call, gone in CUDA 14
        found = _q(pynvml, "nvmlDeviceGetTemperature", handle, sensor)
    return None if found is None else float(found)


def _throttle(pynvml: ModuleType, bits: int | None) -> tuple[str, ...] | None:
    if bits is None:
        return None
    names = {
        "SwPowerCap": "power cap",
        "HwSlowdown": "hardware slowdown",
        "SwThermalSlowdown": "software thermal slowdown",
        "HwThermalSlowdown": "hardware thermal slowdown",
        "HwPowerBrakeSlowdown": "power brake",
    }
    known = {words: getattr(pynvml, f"nvmlClocksEventReason{n}", 0) for n, words in names.items()}
    return tuple(words for words, bit in known.items() if bits & bit)


def _links(pynvml: ModuleType, handle: Any) -> int | None:
    states = [_q(pynvml, "nvmlDeviceGetNvLinkState", handle, i) for i in range(18)]
    known = [s for s in states if s is not None]
    return sum(known) if known else None


def _held(processes: Any, *, ours: bool) -> int | None:
    """Memory of the listed processes that belong to this run, or of the others. In a container
    their numbers may be the host's: then all of them count as others."""
    if processes is None:
        return None
    own = own_processes.numbers()
    return sum(p.usedGpuMemory or 0 for p in processes if (p.pid in own) == ours)


def problem(name: str, severity: Any, message: str, fix: str) -> Problem:
    return Problem(f"nvidia.{name}", severity, message, fix)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
