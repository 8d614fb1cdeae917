"""What sysctl, sw_vers, system_profiler and xcode-select say of a Mac; None on any other system."""

import json
import platform

from sd3tune.backends.observe import system


def chip_name() -> str | None:
    """ "Apple M3 Max"; None elsewhere."""
    if platform.system() != "Darwin":
        return None
    return (system.run(["sysctl", "-n", "machdep.cpu.brand_string"]) or "").strip() or None


def macos_version() -> str | None:
    """From sw_vers: Python's own answer may be 10.16 under an old SDK."""
    if platform.system() != "Darwin":
        return None
    return (system.run(["sw_vers", "-productVersion"]) or "").strip() or None


def rosetta() -> bool:
    """True for an x86-64 process translated on an Apple chip."""
    return number("sysctl.proc_translated") == 1


def number(name: str) -> int | None:
    if platform.system() != "Darwin":
        return None
    return system.whole(system.run(["sysctl", "-n", name]))


def wired_limit_bytes() -> int | None:
    """What the GPU may hold, when somebody set it; 0 is macOS' own choice."""
    return (number("iogpu.wired_limit_mb") or 0) * 2**20 or None


def command_line_tools() -> bool | None:
    """Whether Xcode's are installed. Without them /usr/bin/c++ is there and only offers them."""
    if platform.system() != "Darwin":
        return None
    return bool((system.run(["xcode-select", "-p"]) or "").strip())


def gpu_cores() -> int | None:
    said = system.run(["system_profiler", "SPDisplaysDataType", "-json"])
    try:
        cards = json.loads(said or "{}").get("SPDisplaysDataType", [])
    except ValueError:
        return None
    return next((system.whole(c["sppci_cores"]) for c in cards if "sppci_cores" in c), None)
