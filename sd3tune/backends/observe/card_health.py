"""Questions that tell a card that computes from one that is lost or not connected, asked of the
vendors' libraries and programs. Standard library only, and nothing here raises.
"""

import ctypes
from collections.abc import Mapping
from types import ModuleType
from typing import Any

# NVML codes after which a card computes nothing: lost, reset required. The others are also answers
# of healthy cards to some questions, and count only where a card answers nothing essential.
DEAD = (15, 16)
DOUBTFUL = (11, 14, 28, 999)  # interrupt issue, corrupted infoROM, not found, unknown error
NOT_GIVEN = 4  # no permission: the card belongs to another container or job
ESSENTIAL = ("nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo")
ALSO = ("nvmlDeviceGetPciInfo", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetComputeMode")
FABRIC = {1: "not started", 2: "in progress", 3: "completed"}  # nvmlGpuFabricState_t; 0: no fabric
# AMDSMI_STATUS: not supported, not yet implemented; no permission: the card is another container's.
UNSUPPORTED, CLOSED = (2, 3), 10
AMD_ESSENTIAL = (("amdsmi_get_gpu_asic_info",), ("amdsmi_get_gpu_memory_total", "VRAM"))
SMI_DEAD = ("gpu is lost", "requires reset", "requires restart")
SMI_DOUBTFUL, SMI_ESSENTIAL = ("unknown error", "err!"), ("name", "uuid", "memory.total")


def lost(pynvml: ModuleType, handle: Any) -> str | None:
    """Why an NVIDIA card computes nothing, in NVML's words; None where it answers."""
    for name in (*ESSENTIAL, *ALSO):
        try:
            getattr(pynvml, name)(handle)
        except pynvml.NVMLError as e:
            if e.value in DEAD or (e.value in DOUBTFUL and name in ESSENTIAL):
                return str(e)
        except Exception:  # not NVML's own: another age of the binding, or a bad answer
            continue
    return None


def smi_lost(cells: Mapping[str, str]) -> str | None:
    """The same from a row of nvidia-smi, which writes `[GPU is lost]` into its cells."""
    for name, cell in cells.items():
        said = cell.strip("[] ")
        words = SMI_DEAD + (SMI_DOUBTFUL if name in SMI_ESSENTIAL else ())
        if any(word in said.lower() for word in words):
            return said
    return None


def amd_lost(amdsmi: ModuleType, handle: Any) -> str | None:
    """Why an AMD card says neither what it is nor how much memory it has; None where it does."""
    errors = [e for e in _amd_errors(amdsmi, handle) if _code(e) not in UNSUPPORTED]
    return " ".join(str(errors[0]).split()) if len(errors) == len(AMD_ESSENTIAL) else None


def amd_closed(amdsmi: ModuleType, handle: Any) -> bool:
    """A card that this user or container may not ask: it belongs to others."""
    codes = [_code(e) for e in _amd_errors(amdsmi, handle)]
    return codes == [CLOSED] * len(AMD_ESSENTIAL)


def _amd_errors(amdsmi: ModuleType, handle: Any) -> list[Exception]:
    errors = []
    for name, *words in AMD_ESSENTIAL:
        try:
            kinds = [getattr(amdsmi.AmdSmiMemoryType, word) for word in words]
            getattr(amdsmi, name)(handle, *kinds)
        except Exception as e:  # AmdSmiLibraryException carries a code; other ages raise others
            errors.append(e)
    return errors


def _code(error: Exception) -> Any:
    return getattr(error, "err_code", None)


def fabric(pynvml: ModuleType, handle: Any) -> str | None:
    """The state of the NVSwitch fabric of a card; None where it has none or NVML does not say."""
    kinds = (("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
             ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"))  # fmt: skip
    for name, structure in kinds:
        try:
            info = getattr(pynvml, structure)()
            getattr(pynvml, name)(handle, ctypes.byref(info))
        except Exception:  # NVMLError, and what is not NVML's own: another age of the binding
            continue
        if info.state == 3 and info.status != 0:
            return f"failed: {pynvml.NVMLError(info.status)}"
        return FABRIC.get(info.state)
    return None


def nvlinks(pynvml: ModuleType, handle: Any) -> int | None:
    """The number of NVLink links of a card, up or down; None where it has none."""
    known = 0
    for link in range(getattr(pynvml, "NVML_NVLINK_MAX_LINKS", 18)):
        try:
            pynvml.nvmlDeviceGetNvLinkState(handle, link)
        except Exception:  # no more links, or a broken binding
            break
        known += 1
    return known or None
