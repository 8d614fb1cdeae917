"""What NVIDIA's kernel module writes into files: names, identities and its version, no memory and
no architecture. They need neither a library nor a program. Nothing here raises.
"""

import re
from pathlib import Path

from sd3tune.backends.observe import system
from sd3tune.backends.observe.facts import Gpu, Problem, Survey
from sd3tune.backends.observe.nvml import UNKNOWN, problem

NAME = "/proc/driver/nvidia"
# "Kernel Module  580.95.05", "Open Kernel Module for x86_64  575.57.08"
VERSION = re.compile(r"Module\s+(?:for\s+\S+\s+)?(\d+\.\d[\d.]*)")


def survey(root: Path) -> Survey:
    """The cards and the version of the loaded kernel module."""
    problems: list[Problem] = []
    folder = root / "proc/driver/nvidia"
    driver = _driver(root, problems)
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


def _gpu(index: int, path: Path) -> Gpu:
    lines = (line.split(":", 1) for line in system.read(path).splitlines() if ":" in line)
    said = {name.strip(): value.strip() for name, value in lines}
    uuid = said.get("GPU UUID", "")
    return Gpu("cuda", index, said.get("Model") or "NVIDIA GPU", UNKNOWN, NAME,
               # "GPU-????????-…" until a program has opened the card
               uuid=uuid if uuid.startswith("GPU-") and "?" not in uuid else None,
               bus_id=system.bus_id(said.get("Bus Location") or path.parent.name))  # fmt: skip
