"""What PyTorch itself sees. `observe` runs in a child process, since importing torch takes seconds
and a broken build may take the process along; `from_files` does not start torch at all.
"""

import re
from dataclasses import asdict, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sd3tune.backends.observe.facts import TorchDevice, TorchReport

RANGE = (
    "torch>=2.13,<2.16"  # as pyproject.toml has it, for scripts/setup, which has no metadata yet
)
DEFINITION = re.compile(r"^(\w+)(?:\s*:[^=]+)?\s*=\s*(.+)$", re.MULTILINE)


def observe(depth: str = "devices") -> dict[str, Any]:
    """The child's answer: a TorchReport as JSON data. depth: "software" asks no driver."""
    import torch

    built = TorchReport(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        mps_built=torch.backends.mps.is_built(),
        native_bf16_cpu=_native_bf16(),
        imported=True,
    )
    if depth == "software":
        return asdict(built)
    devices, error = _devices()
    report = replace(
        built,
        mps_available=torch.backends.mps.is_available(),
        devices=devices,
        arch_list=tuple(torch.cuda.get_arch_list()),
        mps_recommended_bytes=_recommended(),
        devices_error=error,
    )
    return asdict(report)


def details() -> dict[str, Any]:
    """How this build was made, in PyTorch's own words: for reports."""
    import torch

    return {"config": torch.__config__.show(), "parallel": torch.__config__.parallel_info()}


def from_answer(data: dict[str, Any]) -> TorchReport:
    devices = tuple(
        TorchDevice(**(d | {"capability": tuple(d["capability"]) if d["capability"] else None}))
        for d in data["devices"]
    )
    return TorchReport(**(data | {"devices": devices, "arch_list": tuple(data["arch_list"])}))


def from_files() -> TorchReport:
    """Version and build from the installed files; nothing about devices."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return TorchReport()
    found = _definitions()
    return TorchReport(
        version=found.get("__version__") or version,
        cuda=found.get("cuda"),
        hip=found.get("hip"),
        mps_built="macos" in (found.get("__platform__") or ""),
    )


def _definitions() -> dict[str, str | None]:
    """torch/version.py read as text: `cuda: Optional[str] = '13.0'`."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    try:
        text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    except OSError:
        return {}
    found: dict[str, str | None] = {}
    for name, value in DEFINITION.findall(text):
        quoted = re.fullmatch(r"['\"](.*)['\"]", value.strip())
        found[name] = quoted.group(1) if quoted else None
    return found


def _devices() -> tuple[tuple[TorchDevice, ...], str | None]:
    """Every device that answers, and what CUDA or HIP said instead of the others."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return (), None
    try:
        torch.cuda.init()
        # torch.cuda.device_count() counts entries of the variables where HIP shows fewer devices.
        count = torch.accelerator.device_count()
    except (RuntimeError, AssertionError) as e:  # no driver, no card, error 802, an old driver …
        return (), _sentence(e)
    found, error = [], None
    for index in range(count):
        try:
            found.append(_device(index))
        except (RuntimeError, AssertionError) as e:
            error = f"device {index}: {_sentence(e)}"
    return tuple(found), error


def _sentence(error: Exception) -> str:
    """Without the advice for programmers that CUDA appends."""
    return " ".join(str(error).split("\nCUDA kernel errors")[0].split()) or type(error).__name__


def _device(index: int) -> TorchDevice:
    import torch

    p: Any = torch.cuda.get_device_properties(index)  # its type lacks the PCI address
    gfx = str(getattr(p, "gcnArchName", "")).split(":")[0]  # "gfx942:sramecc+:xnack-"
    bus = None
    if hasattr(p, "pci_bus_id"):
        bus = f"{p.pci_domain_id:04x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0"
    return TorchDevice(
        index=index,
        name=p.name,
        total_bytes=p.total_memory,
        # A gfx90a reads (9, 0) here, as an H100 does: kept for NVIDIA only.
        capability=None if torch.version.hip else (p.major, p.minor),
        gfx=gfx if torch.version.hip else None,
        uuid=str(p.uuid) if hasattr(p, "uuid") else None,
        bus_id=bus,
    )


def _native_bf16() -> bool | None:
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN (macOS)
        return None


def _recommended() -> int | None:
    import torch

    return int(torch.mps.recommended_max_memory()) if torch.backends.mps.is_available() else None
