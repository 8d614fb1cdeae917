"""amdsmi, AMD's Python binding: it may be missing, of another age than its library, or closed.

Without the library `import amdsmi` raises KeyError and prints; with an older one, AttributeError.
Numbers it does not know come back as the text "N/A". Nothing here raises.
"""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sd3tune.backends.observe import card_health, system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey

UNKNOWN = Arch("gfx", "unknown")
MIB = 2**20
INSTALL = "pip install /opt/rocm/share/amd_smi (the copy that came with your ROCm)"
IN_IMAGE = "nothing: training needs it not; docker/README.md says which amdsmi an image has"
GROUPS = "add yourself to the groups video and render; docker run --group-add …"
# AMDSMI_STATUS codes at initialisation: what they mean, what helps.
INIT = {
    10: ("no-permission", "fail", "amdsmi may not open the card",
         GROUPS),
    34: ("driver-not-loaded", "fail", "the amdgpu kernel driver is not loaded",
         "sudo modprobe amdgpu; in a container: --device=/dev/kfd --device=/dev/dri"),
}  # fmt: skip
PCIE_GENERATIONS = {2500: 1, 5000: 2, 8000: 3, 16000: 4, 32000: 5, 64000: 6}  # MT/s per lane
VIOLATIONS = {
    "active_prochot_thrm": "prochot thermal",
    "active_ppt_pwr": "power cap",
    "active_socket_thrm": "socket thermal",
    "active_hbm_thrm": "hbm thermal",
}


def survey(root: Path) -> Survey:
    """amdsmi's answer, or no cards and a Problem that says why. `root` is for the other sources."""
    problems: list[Problem] = []
    library = _loaded(problems)
    if library is None:
        return Survey("rocm", problems=tuple(problems))
    try:
        handles = library.ask("amdsmi_get_processor_handles") or []
        gpus = tuple(
            _gpu(library, i, handle)
            for i, handle in enumerate(handles)
            if not card_health.amd_closed(library.amdsmi, handle)
        )
        driver = library.ask("amdsmi_get_gpu_driver_info", handles[0]) if handles else None
        rocm = library.ask("amdsmi_get_rocm_version")
        runtime = rocm[1] if rocm and rocm[0] else None
        version = word((driver or {}).get("driver_version"))
    finally:
        library.ask("amdsmi_shut_down")
    if not gpus:
        words = "amdsmi lists no card: this user may not open it, or another libamd_smi was loaded"
        problems.append(problem("amdsmi-empty", "warn", words, GROUPS))
    if library.failed:
        failed = ", ".join(f"{name} ({error})" for name, error in library.failed.items())
        words = f"amdsmi does not match the installed ROCm: {failed[:200]}"
        problems.append(problem("amdsmi-garbage", "warn", words, library.install))
    return Survey("rocm", gpus, version, runtime, "amdsmi" if gpus else None, tuple(problems))


@dataclass
class _Binding:
    """The binding. failed: function -> an error that is not amdsmi's own."""

    amdsmi: ModuleType
    install: str
    failed: dict[str, str] = field(default_factory=dict)

    def ask(self, name: str, *words: Any) -> Any:
        """One question; None when this binding, library or card cannot answer it."""
        try:
            return getattr(self.amdsmi, name)(*words)
        except AttributeError:  # of another age
            return None
        except Exception as e:  # AmdSmiException and, across ages, KeyError, OSError and others
            if not type(e).__name__.startswith("AmdSmi"):
                self.failed[name] = "not UTF-8" if isinstance(e, UnicodeError) else type(e).__name__
            return None


def _loaded(problems: list[Problem]) -> _Binding | None:
    """The binding, imported and started; None and the reason in `problems`."""
    if folder := os.environ.get(
        "SD3TUNE_AMDSMI"
    ):  # apart from PyTorch, as in docker/rocm.Dockerfile
        sys.path.insert(0, folder)
        if (rocm := _rocm_of_torch()) is not None:
            os.environ.setdefault("ROCM_PATH", rocm)
    install = IN_IMAGE if folder else INSTALL
    try:
        import amdsmi
    except ModuleNotFoundError as e:
        if e.name == "amdsmi" or e.name is None:
            words = "the Python package amdsmi is not installed: fewer checks"
            problems.append(problem("amdsmi-missing", "warn", words, install))
        else:
            problems.append(_broken(e, install))
        return None
    except Exception as e:  # KeyError, AttributeError, OSError: whatever loading a library raises
        problems.append(_broken(e, install))
        return None
    try:
        amdsmi.amdsmi_init()
    except Exception as e:  # AmdSmiLibraryException carries a code; other ages raise others
        code = getattr(e, "err_code", None)
        words = f"amdsmi does not start: {type(e).__name__}: {' '.join(str(e).split())}"
        known = INIT.get(code) if isinstance(code, int) else None
        problems.append(problem(*(known or ("amdsmi-init", "warn", words, install))))
        return None
    return _Binding(amdsmi, install)


def _broken(error: Exception, install: str) -> Problem:
    """Of a binding that cannot be imported."""
    if isinstance(error, OSError) and system.load_failure(error)[0] != "failed":
        words = f"the library of amdsmi {system.load_failure(error)[1]}"
    else:
        words = f"amdsmi does not match the installed ROCm: {type(error).__name__}: "
        words += " ".join(str(error).split())[:200]
    return problem("amdsmi-broken", "warn", words, install)


def _rocm_of_torch() -> str | None:
    """Where PyTorch's wheel keeps its own libamd_smi, below lib: the only copy there should be."""
    wheels = (Path(entry) / name for entry in sys.path for name in ("torch", "_rocm_sdk_core"))
    return next((str(w) for w in wheels if (w / "lib/libamd_smi.so").exists()), None)


def _gpu(library: _Binding, index: int, handle: Any) -> Gpu:
    def q(name: str, *words: Any) -> Any:
        return library.ask(name, handle, *words)

    def entry(name: str, key: str) -> Any:
        found = q(name)
        return found.get(key) if isinstance(found, dict) else None

    gfx = word(entry("amdsmi_get_gpu_asic_info", "target_graphics_version"))
    pcie = q("amdsmi_get_pcie_info") or {}
    static, metric = pcie.get("pcie_static") or {}, pcie.get("pcie_metric") or {}
    cap = q("amdsmi_get_power_cap_info") or {}
    ecc = entry("amdsmi_get_gpu_total_ecc_count", "uncorrectable_count")
    return Gpu(
        vendor="rocm",
        index=index,
        name=word(entry("amdsmi_get_gpu_asic_info", "market_name")) or "AMD GPU",
        arch=Arch("gfx", gfx) if gfx and gfx.startswith("gfx") else UNKNOWN,
        source="amdsmi",
        total_bytes=system.whole(
            q("amdsmi_get_gpu_memory_total", library.amdsmi.AmdSmiMemoryType.VRAM)
        ),
        used_bytes=system.scaled(entry("amdsmi_get_gpu_vram_usage", "vram_used"), MIB),
        uuid=word(q("amdsmi_get_gpu_device_uuid")),
        bus_id=system.bus_id(q("amdsmi_get_gpu_device_bdf")),
        temperature_celsius=_temperature(library, handle),
        power_limit_watts=_watts(cap.get("power_cap")),
        power_default_watts=_watts(cap.get("default_power_cap")),
        ecc_uncorrected=system.whole(ecc),
        throttle=_throttle(q("amdsmi_get_violation_status")),
        pcie_generation=PCIE_GENERATIONS.get(system.whole(metric.get("pcie_speed")) or 0),
        pcie_generation_max=PCIE_GENERATIONS.get(system.whole(static.get("max_pcie_speed")) or 0),
        pcie_width=system.whole(metric.get("pcie_width")),
        pcie_width_max=system.whole(static.get("max_pcie_width")),
        links=_links(q("amdsmi_get_gpu_xgmi_link_status")),
        compute_partition=word(q("amdsmi_get_gpu_compute_partition")),
        memory_partition=word(q("amdsmi_get_gpu_memory_partition")),
        hip_index=system.whole(entry("amdsmi_get_gpu_enumeration_info", "hip_id")),
        hip_uuid=_identity(entry("amdsmi_get_gpu_enumeration_info", "hip_uuid"))
        or system.hip_uuid(entry("amdsmi_get_gpu_asic_info", "asic_serial")),
        error=card_health.amd_lost(library.amdsmi, handle),
    )


def _temperature(library: _Binding, handle: Any) -> float | None:
    """The junction; Instinct cards have no edge sensor."""
    amdsmi = library.amdsmi
    current = amdsmi.AmdSmiTemperatureMetric.CURRENT
    for sensor in (amdsmi.AmdSmiTemperatureType.JUNCTION, amdsmi.AmdSmiTemperatureType.HOTSPOT):
        found = system.number(library.ask("amdsmi_get_temp_metric", handle, sensor, current))
        if found is not None:
            return found
    return None


def _watts(microwatts: Any) -> float | None:
    value = system.number(microwatts)
    return None if value is None else value / 1e6


def _throttle(status: Any) -> tuple[str, ...] | None:
    if not isinstance(status, dict):
        return None
    known = {key: status.get(key) for key in VIOLATIONS if isinstance(status.get(key), bool | int)}
    return tuple(VIOLATIONS[key] for key, active in known.items() if active) if known else None


def _links(status: Any) -> int | None:
    links = status.get("status") if isinstance(status, dict) else None
    return sum(link == "U" for link in links) if isinstance(links, list) else None


def _identity(hip_uuid: Any) -> str | None:
    """HIP's UUID of a card; `GPU-XX` is what it calls all that have none."""
    return hip_uuid if re.fullmatch(r"GPU-[0-9a-fA-F]{16}", str(hip_uuid)) else None


def word(value: Any) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value not in ("", "N/A") else None


def problem(name: str, severity: Any, message: str, fix: str) -> Problem:
    return Problem(f"amd.{name}", severity, message, fix)
