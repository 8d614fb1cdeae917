"""amdsmi with recorded answers. The real binding cannot be imported without ROCm's library, so its
names and dictionary keys were read from its source: amdsmi-7.0.2.json."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

CONTRACT = json.loads((Path(__file__).parent / "amdsmi-7.0.2.json").read_text())


class AmdSmiLibraryException(Exception):
    def __init__(self, err_code: int) -> None:
        super().__init__(f"Error code:\n\t{err_code}")
        self.err_code = err_code


def module(recorded: dict[str, Any]) -> ModuleType:
    """recorded: {"init": code} or {"rocm", "devices": [{function: answer}]}. An answer
    {"raises": code} is an error."""
    fake = _Fake("amdsmi")
    fake.recorded = recorded
    return fake


class _Fake(ModuleType):
    recorded: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in CONTRACT["enums"]:
            return SimpleNamespace(**{member: member for member in CONTRACT["enums"][name]})
        if name.startswith("__"):
            raise AttributeError(name)
        assert name in CONTRACT["functions"], f"amdsmi 7.0.2 has no {name}"
        return lambda *words: _answer(self.recorded, name, words)


def _answer(recorded: dict[str, Any], name: str, words: tuple[Any, ...]) -> Any:
    if name == "amdsmi_init" and "init" in recorded:
        raise AmdSmiLibraryException(recorded["init"])
    if name in ("amdsmi_init", "amdsmi_shut_down"):
        return None
    if name == "amdsmi_get_processor_handles":
        return recorded["devices"]
    if name == "amdsmi_get_rocm_version":
        return tuple(recorded["rocm"])
    if name not in words[0]:
        raise AmdSmiLibraryException(2)  # NOT_SUPPORTED
    answer = words[0][name]
    if isinstance(answer, dict) and "raises" in answer:
        raise AmdSmiLibraryException(answer["raises"])
    return answer
