"""What the observers' programs and files answer on this machine, cut down to allow-listed fields.

For reports from hardware we do not have: played back at the same boundary (tests/recordings.py),
they go through the whole observing code. Never raises; what is not asked for is not kept.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from sd3tune.backends import cuda, mps, rocm
from sd3tune.backends.observe import amd_smi_program, nvidia_smi, sysctl, system
from sd3tune.backends.observe.facts import Vendor

SYSCTL = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.optional.arm64",
    "sysctl.proc_translated",
    "iogpu.wired_limit_mb",
    "hw.model",
    "hw.pagesize",
    "hw.perflevel0.physicalcpu",
    "hw.perflevel1.physicalcpu",
    "kern.osversion",
)
# Of a GPU in `system_profiler SPDisplaysDataType -json`; displays hang below it, with serials.
PROFILER = ("_name", "sppci_cores", "sppci_model", "spdisplays_mtlgpufamilysupport",
            "spdisplays_vendor")  # fmt: skip
AMD = (
    "gpu_data gpu asic market_name vendor_id device_id target_graphics_version num_compute_units "
    "bus bdf max_pcie_width max_pcie_speed pcie_interface_version driver name version vram type "
    "size value unit partition accelerator_partition compute_partition memory_partition limit "
    "max_power"
).split()
NVIDIA = (  # of `nvidia-smi -q`
    "Driver Version", "CUDA Version", "Attached GPUs", "Product Name", "Product Brand",
    "Product Architecture", "Persistence Mode", "Addressing Mode", "Virtualization Mode",
    "MIG Mode", "Current", "Pending", "Compute Mode", "Total", "Reserved", "Used", "Free",
    "Max", "Link Width", "Current Power Limit", "Default Power Limit", "Max Power Limit",
    "GPU Current Temp", "GPU Shutdown Temp", "SM", "Graphics", "Memory", "GSP Firmware Version",
)  # fmt: skip
# File -> beginnings of the lines that are kept; (): all of it.
FILES: dict[str, tuple[str, ...]] = {
    "proc/meminfo": ("MemTotal", "MemAvailable"),
    "proc/cpuinfo": ("model name",),
    "proc/driver/nvidia/version": ("NVRM version",),
    "proc/sys/kernel/numa_balancing": (),
    "opt/rocm/.info/version": (),
    "sys/module/amdgpu/version": (),
    "sys/fs/cgroup/memory.max": (),
    "sys/fs/cgroup/cpu.max": (),
}
PRESENT = ("dev/nvidiactl", "dev/kfd", "dev/dri/renderD128")


def files(root: Path = Path("/")) -> dict[str, str]:
    """Relative path -> text, the same line kept once."""
    found = {}
    for name, kept in FILES.items():
        lines = [line for line in system.read(root / name).splitlines() if line.startswith(kept)]
        if lines:
            found[name] = "\n".join(dict.fromkeys(lines)) + "\n"
    return found | {name: "" for name in PRESENT if (root / name).exists()}


def commands(asked: Collection[Vendor]) -> dict[str, Any]:
    """Program -> its answer, or for sysctl name -> answer; only programs that answered. asked: the
    vendors whose drivers were asked; the programs of others are not started."""
    found: dict[str, Any] = {}
    if mps.VENDOR in asked:
        found |= _apple()
    if cuda.VENDOR in asked:
        said = system.run(list(nvidia_smi.QUERY))
        found |= {"nvidia-smi": said} if said else {}
    if rocm.VENDOR in asked:
        said = _json(system.run(list(amd_smi_program.STATIC)))
        found |= {"amd-smi": json.dumps(_kept(said, AMD))} if said else {}
    return found


def nvidia_details(asked: Collection[Vendor]) -> list[str]:
    """Allow-listed lines of `nvidia-smi -q`, indented as there. asked: as for `commands`."""
    if cuda.VENDOR not in asked:
        return []
    lines = (system.run(["nvidia-smi", "-q"]) or "").splitlines()
    return [line.rstrip() for line in lines if line.split(" : ")[0].strip() in NVIDIA]


def _apple() -> dict[str, Any]:
    numbers = {name: (system.run(["sysctl", "-n", name]) or "").strip() for name in SYSCTL}
    cards = [{k: card[k] for k in PROFILER if k in card} for card in sysctl.displays()]
    found: dict[str, Any] = {
        "sysctl": {name: said for name, said in numbers.items() if said},
        "sw_vers": system.run(["sw_vers", "-productVersion"]),
        "system_profiler": json.dumps({"SPDisplaysDataType": cards}),
        "xcode-select": system.run(["xcode-select", "-p"]),
    }
    return {name: said for name, said in found.items() if said}


def _json(said: str | None) -> Any:
    try:
        return json.loads(said or "null")
    except ValueError:
        return None


def _kept(value: Any, keys: Iterable[str]) -> Any:
    if isinstance(value, list):
        return [_kept(v, keys) for v in value]
    if isinstance(value, dict):
        return {k: _kept(v, keys) for k, v in value.items() if k in keys}
    return value
