"""Recorded machines: a vendor library's answers, files, programs and PyTorch's report, to Facts.

tests/machines/NAME.json says in `provenance` where its names and values come from; a file that
`sd3tune doctor --report` wrote is one as well. They are played at the boundary: a fake vendor
module, a folder as the root of the file system, programs on PATH.
"""

import builtins
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sd3tune.backends import mps
from sd3tune.backends.observe import (
    amd_visible,
    card_sources,
    child,
    cuda_devices,
    libcuda,
    machine,
    nvidia_visible,
    this_machine,
)
from sd3tune.backends.observe.facts import Facts, Machine, Survey, TorchReport, to_json
from sd3tune.backends.observe.torch_report import from_answer
from tests.fakes import amd, driver, nvml

DISK_BYTES = 2**38  # of every recorded machine, whatever this one has
VARIABLES = (*amd_visible.VARIABLES, nvidia_visible.ORDER, "NVIDIA_VISIBLE_DEVICES",
             "SD3TUNE_BACKEND")  # fmt: skip
FOLDER = Path(__file__).parent / "machines"


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    recorded: dict[str, Any] = data.get("recording", data)
    return recorded


def machine_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """What machine.survey would say there, without child processes."""
    return observed(load(name), tmp_path, monkeypatch)[0]


def facts_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    return observed(load(name), tmp_path, monkeypatch)[2]


def observed(
    recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Machine, TorchReport, Facts]:
    """As this_machine.observe returns it, from the answers of a recording."""
    play(recorded, tmp_path, monkeypatch)
    seen = machine.survey(tmp_path, asking(recorded))
    torch = from_answer(recorded["torch"])
    packages, environ = recorded["packages"], recorded["environ"]
    facts = this_machine.join(seen, torch, packages, recorded.get("tools", {}), environ)
    return seen, torch, facts


def asking(recorded: dict[str, Any]) -> card_sources.Ask:
    """Asks a source in this process, where the recorded answers are played; a machine whose libcuda
    was not recorded is one where it says nothing."""

    def ask(name: str, root: Path) -> child.Answer:
        if name in ("libcuda", "cuInit"):
            module = libcuda if name == "libcuda" else cuda_devices
            answers, said = recorded.get("libcuda"), Survey("cuda")
            if answers is not None:
                said = module.survey(root, driver.load(answers))
            return child.Answer(data=to_json(said))
        return child.Answer(data=card_sources.observe(name, str(root)))

    return ask


def play(recorded: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in recorded["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for key in VARIABLES:
        monkeypatch.delenv(key, raising=False)
    libraries(recorded, monkeypatch)
    programs(recorded["commands"], root, monkeypatch)
    darwin = recorded["platform"] == "Darwin"
    sysctl = recorded["commands"].get("sysctl", {})
    arm = sysctl.get("hw.optional.arm64") == "1" and sysctl.get("sysctl.proc_translated") != "1"
    processor = "arm64" if darwin and arm else "x86_64"
    monkeypatch.setattr(mps.platform, "system", lambda: recorded["platform"])
    monkeypatch.setattr(mps.platform, "machine", lambda: processor)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=DISK_BYTES))


def libraries(recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor library that is not recorded is not installed."""
    fakes = {"pynvml": nvml.module, "amdsmi": amd.module}
    for name, make in fakes.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        answers = recorded.get(name)
        if answers is None:
            monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        elif "import" in answers:
            refuse_import(name, *answers["import"], monkeypatch=monkeypatch)
        else:
            monkeypatch.setitem(sys.modules, name, make(answers))


def refuse_import(name: str, kind: str, words: str, *, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(module: str, *rest: Any, **more: Any) -> Any:
        if module == name:
            print(
                "Unable to find libamd_smi.so library try installing amd-smi-lib from your package"
            )
            raise getattr(builtins, kind)(words)
        return real(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", importing)


def programs(recorded: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that print the recorded answers, and no others on PATH. An answer may depend on the
    last word of the command, or be {"text", "status"} of a program that fails."""
    folder, shell = root / "programs", "#!/bin/sh\n"
    shutil.rmtree(folder, ignore_errors=True)  # of a machine that was played before
    for name, answers in recorded.items():
        kept = folder / "answers" / name
        kept.mkdir(parents=True, exist_ok=True)
        failed = isinstance(answers, dict) and "status" in answers
        by_word = answers if isinstance(answers, dict) and not failed else {}
        for word, text in by_word.items():
            (kept / word).write_text(str(text))
        (kept / "any").write_text(str(answers["text"] if failed else answers))
        last = "$last" if by_word else "any"
        program = folder / name
        lines = f'for last; do :; done\n/bin/cat "{kept}/{last}" || exit 1\n'
        program.write_text(f"{shell}{lines}exit {answers['status'] if failed else 0}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
