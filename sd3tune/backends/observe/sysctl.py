"""What sysctl, sw_vers, system_profiler and xcode-select say of a Mac; None on any other system."""

import json
import platform
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey

SECONDS = 3.0  # for a question that takes milliseconds
PROFILER_SECONDS = 5.0  # of the ten for all questions to a Mac


def survey(root: Path) -> Survey:
    """The chip, its memory and GPU cores, the macOS version. `root` is for the other sources."""
    name = chip_name()
    if name is None:
        found = Problem("mps.no-chip", "warn", "sysctl does not name the chip", "update macOS")
        return Survey("mps", runtime=macos_version(), problems=(found,))
    gpu = Gpu(
        vendor="mps",
        index=0,
        name=name,
        arch=Arch("apple", name.lower().removeprefix("apple ").replace(" ", "-")),
        source="sysctl",
        total_bytes=number("hw.memsize"),
        gpu_cores=gpu_cores(),
        wired_limit_bytes=wired_limit_bytes(),
    )
    return Survey("mps", (gpu,), None, macos_version(), "sysctl")


def chip_name() -> str | None:
    """ "Apple M3 Max"; None elsewhere."""
    if platform.system() != "Darwin":
        return None
    return (system.run(["sysctl", "-n", "machdep.cpu.brand_string"], SECONDS) or "").strip() or None


def macos_version() -> str | None:
    """From sw_vers: Python's own answer may be 10.16 under an old SDK."""
    if platform.system() != "Darwin":
        return None
    return (system.run(["sw_vers", "-productVersion"], SECONDS) or "").strip() or None


def rosetta() -> bool:
    """True for an x86-64 process translated on an Apple chip."""
    return number("sysctl.proc_translated") == 1


def number(name: str) -> int | None:
    if platform.system() != "Darwin":
        return None
    return system.whole(system.run(["sysctl", "-n", name], SECONDS))


def wired_limit_bytes() -> int | None:
    """What the GPU may hold, when somebody set it; 0 is macOS' own choice."""
    return (number("iogpu.wired_limit_mb") or 0) * 2**20 or None


def command_line_tools() -> bool | None:
    """Whether Xcode's are installed. Without them /usr/bin/c++ is there and only offers them."""
    if platform.system() != "Darwin":
        return None
    return bool((system.run(["xcode-select", "-p"], SECONDS) or "").strip())


def displays() -> list[dict[str, Any]]:
    """The GPUs that system_profiler lists; none where it does not answer with JSON."""
    said = system.run(["system_profiler", "SPDisplaysDataType", "-json"], PROFILER_SECONDS)
    try:
        cards = json.loads(said or "{}")["SPDisplaysDataType"]
    except (ValueError, KeyError, TypeError):
        return []
    return [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []


def gpu_cores() -> int | None:
    """Of the GPU, which Apple sells in several sizes under one name."""
    known = (card["sppci_cores"] for card in displays() if "sppci_cores" in card)
    return next(map(system.whole, known), None)
