"""pynvml with recorded answers. Names, constants, exceptions and argument lists are the real
module's: a question it does not have, or asked wrongly, fails the test."""

import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml as real

NOT_SUPPORTED, NOT_FOUND = 3, 6


def module(recorded: dict[str, Any]) -> ModuleType:
    """recorded: {"init": code} or {"driver", "cuda", "devices": [{function: answer}]}. An answer
    {"raises": code} is an error; of nvmlDeviceGetHandleByIndex it is the card's."""
    fake = _Fake("pynvml")
    fake.recorded = recorded
    return fake


class _Fake(ModuleType):
    recorded: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        found = getattr(real, name)  # AttributeError when the real binding has no such name
        if not (name.startswith("nvml") and inspect.isfunction(found)):
            return found

        def ask(*words: Any) -> Any:
            inspect.signature(found).bind(*words)
            return _answer(self.recorded, name, words)

        return ask


def _answer(recorded: dict[str, Any], name: str, words: tuple[Any, ...]) -> Any:
    if "init" in recorded:
        raise real.NVMLError(recorded["init"])
    if name in ("nvmlInit", "nvmlShutdown"):
        return None
    if name == "nvmlSystemGetDriverVersion":
        return recorded["driver"]
    if name == "nvmlSystemGetCudaDriverVersion_v2":
        return recorded["cuda"]
    if name == "nvmlDeviceGetCount":
        return len(recorded["devices"])
    if name == "nvmlDeviceGetHandleByIndex":
        device = recorded["devices"][words[0]]
        refuse(device.get(name))
        return device
    device = words[0]
    if name == "nvmlDeviceGetMaxMigDeviceCount":
        return 7
    if name == "nvmlDeviceGetMigDeviceHandleByIndex":
        slices = device.get("mig", [])
        if words[1] >= len(slices):
            raise real.NVMLError(NOT_FOUND)
        return slices[words[1]]
    if name == "nvmlDeviceGetNvLinkState":
        states = device.get(name, [])
        if words[1] >= len(states):
            raise real.NVMLError(NOT_SUPPORTED)
        return states[words[1]]
    if name not in device:
        raise real.NVMLError(NOT_SUPPORTED)
    value = device[name]
    refuse(value)
    if name == "nvmlDeviceGetGpuFabricInfoV":
        for field, answer in value.items():
            setattr(words[1]._obj, field, answer)
        return None
    if name == "nvmlDeviceGetComputeRunningProcesses":
        return [SimpleNamespace(**p) for p in value]
    return SimpleNamespace(**value) if isinstance(value, dict) else value


def refuse(answer: Any) -> None:
    if isinstance(answer, dict) and "raises" in answer:
        raise real.NVMLError(answer["raises"])
