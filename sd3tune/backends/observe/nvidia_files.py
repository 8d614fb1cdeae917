"""What NVIDIA's kernel module writes into files: names, identities and its version, no memory and
no architecture. They need neither a library nor a program. Nothing here raises.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sd3tune.backends.observe import system
from sd3tune.backends.observe.facts import Gpu, Problem, Severity, Survey
from sd3tune.backends.observe.nvml import UNKNOWN, problem

NAME = "/proc/driver/nvidia"
NODES = ("dev/nvidiactl", "dev/dxg")  # dxg: Windows' subsystem for Linux
# "Kernel Module  580.95.05", "Open Kernel Module for x86_64  575.57.08"
VERSION = re.compile(r"Module\s+(?:for\s+\S+\s+)?(\d+\.\d[\d.]*)")


def survey(root: Path) -> Survey:
    """The cards and the version of the loaded kernel module."""
    problems: list[Problem] = []
    folder = root / "proc/driver/nvidia"
    driver = _driver(root, problems)
    problems += _nodes(root, driver)
    gpus = tuple(_gpu(i, p) for i, p in enumerate(sorted((folder / "gpus").glob("*/information"))))
    return Survey("cuda", gpus, driver, None, NAME if gpus or driver else None, tuple(problems))


def _driver(root: Path, problems: list[Problem]) -> str | None:
    folder = root / "proc/driver/nvidia"
    text = system.read(folder / "version")
    said = VERSION.search(text)
    if said is not None:
        return said.group(1)
    if text.strip():
        words = f"{NAME}/version does not name a version: `{text.strip().splitlines()[0][:60]}`"
        problems.append(problem("proc-garbage", "warn", words, f"cat {NAME}/version"))
    elif folder.exists():
        words = f"{NAME}/version cannot be read by this user, or is empty"
        problems.append(problem("proc-forbidden", "warn", words, f"ls -l {NAME}"))
    module = system.read(root / "sys/module/nvidia/version").strip()
    return module if module[:1].isdigit() else None


def _nodes(root: Path, driver: str | None) -> Iterator[Problem]:
    """The device files of a loaded driver must be there and open to this user."""
    if driver is not None and not any((root / node).exists() for node in NODES):
        words = "the kernel module nvidia is loaded and there is no /dev/nvidiactl"
        fix = "in a container: docker run --gpus all …; elsewhere: sudo nvidia-modprobe -c 0 -u"
        yield problem("no-device-file", "fail", words, fix)
    nodes = [root / "dev/nvidiactl", root / "dev/nvidia-uvm", *(root / "dev").glob("nvidia[0-9]*")]
    for node in sorted(nodes):
        if node.exists() and not os.access(node, os.R_OK | os.W_OK):
            name = f"/{node.relative_to(root)}"
            words = f"{name} is closed to this user (mode {node.stat().st_mode & 0o777:03o})"
            fix = f"sudo chmod 666 {name}, or NVreg_DeviceFileMode=0666 of the module nvidia"
            severity: Severity = "warn" if node.name[-1].isdigit() else "fail"  # others' cards
            yield problem(f"closed-{node.name}", severity, words, fix)


def _gpu(index: int, path: Path) -> Gpu:
    lines = (line.split(":", 1) for line in system.read(path).splitlines() if ":" in line)
    said = {name.strip(): value.strip() for name, value in lines}
    uuid, model = said.get("GPU UUID", ""), said.get("Model")
    model = "NVIDIA GPU" if model in (None, "", "Unknown") else model
    return Gpu("cuda", index, str(model), UNKNOWN, NAME,
               # "GPU-????????-…" until a program has opened the card
               uuid=uuid if uuid.startswith("GPU-") and "?" not in uuid else None,
               bus_id=system.bus_id(said.get("Bus Location") or path.parent.name))  # fmt: skip
