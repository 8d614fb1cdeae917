"""libcuda.so.1 with recorded answers, at its C interface: pointers are written, codes returned."""

import ctypes
from typing import Any

INVALID_VALUE = 1
ATTRIBUTES = {75: "major", 76: "minor", 33: "bus", 34: "device", 50: "domain"}


def load(recorded: dict[str, Any]) -> Any:
    """recorded: {"load": the loader's words} or {"version", "init": code, "devices": [{"name",
    "bytes", "major", "minor", "domain", "bus", "device"}]}. What ctypes.CDLL is."""

    def open_library(name: str) -> "_Driver":
        if "load" in recorded:
            raise OSError(f"{name}: {recorded['load']}")
        return _Driver(recorded)

    return open_library


class _Driver:
    def __init__(self, recorded: dict[str, Any]) -> None:
        self.recorded = recorded
        self.devices: list[dict[str, Any]] = recorded.get("devices", [])

    def cuDriverGetVersion(self, version: Any) -> int:
        return _write(version, self.recorded["version"])

    def cuInit(self, flags: int) -> int:
        return int(self.recorded.get("init", 0))

    def cuDeviceGetCount(self, count: Any) -> int:
        return _write(count, len(self.devices))

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return _write(device, ordinal)

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:
        return _write(value, self.devices[device.value][ATTRIBUTES[number]])

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = self.devices[device.value]["name"].encode()[:size]
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: Any) -> int:
        return _write(total, self.devices[device.value]["bytes"])


def _write(pointer: Any, value: int) -> int:
    pointer._obj.value = ctypes.c_size_t(value).value
    return 0
