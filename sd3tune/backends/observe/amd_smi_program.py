"""`amd-smi`, AMD's program: what it knows without any Python package. Nothing here raises.

Written against the documentation of the AMD SMI command line (ROCm 6 and 7); untested on hardware.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import system
from sd3tune.backends.observe.amdsmi import UNKNOWN, problem, word
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Survey

MIB = 2**20
SECONDS = 4.0  # for each of its two questions
STATIC = ("amd-smi", "static", "--json")
FOLDER = "opt/rocm/bin"
METRIC = ("amd-smi", "metric", "--mem-usage", "--json")
FIXES = {
    "absent": "install amd-smi-lib of your ROCm",
    "forbidden": "let this user start it, and add the user to the groups video and render",
    "hangs": "reboot, or reinstall the amdgpu driver; training on this card may hang in the same "
    "way",
}
Run = Callable[[list[str], float], system.ProgramOutput]


def survey(root: Path, run: Run = system.output) -> Survey:
    """The cards and the driver. run: starts a program, as system.output does."""
    problems: list[Problem] = []
    program = system.program(STATIC[0], root, FOLDER)
    entries = _entries(run([program, *STATIC[1:]], SECONDS), problems)
    cards = [entry for entry in entries if "asic" in entry]
    used = _used(run, program) if cards else {}
    gpus = tuple(_gpu(entry, place, used) for place, entry in enumerate(cards))
    driver = _inside(cards[0], "driver", "version") if cards else None
    return Survey("rocm", gpus, word(driver), None, "amd-smi" if gpus else None, tuple(problems))


def _entries(output: system.ProgramOutput, problems: list[Problem]) -> list[Mapping[str, Any]]:
    """One entry a card: a list, or a dict with it under gpu_data since ROCm 7."""
    if output.cause is not None:
        severity = "warn" if output.cause == "absent" else "fail"
        fix = FIXES.get(output.cause, "reinstall amd-smi-lib of your ROCm")
        words = f"amd-smi {output.message}"
        problems.append(problem(f"smi-{output.cause}", severity, words, fix))
        return []
    found = _parsed(output.text)
    if not output.utf8 or found is None:
        said = " ".join(output.text.split())[:80]
        words = (
            f"amd-smi prints rubbish in place of JSON: `{said}`"
            if said
            else "amd-smi prints nothing"
        )
        words = words if output.utf8 else "amd-smi prints bytes that are not UTF-8"
        problems.append(problem("smi-garbage", "warn", words, "reinstall amd-smi-lib of your ROCm"))
    return found or []


def _parsed(text: str) -> list[Mapping[str, Any]] | None:
    """The entries; None where the text is something else. Warnings may stand before the JSON."""
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    try:
        said = json.loads(text[min(starts, default=0) :])
    except ValueError:
        return None
    entries = said.get("gpu_data") if isinstance(said, dict) else said
    if not isinstance(entries, list):
        return None
    return [entry for entry in entries if isinstance(entry, dict)]


def _used(run: Run, program: str) -> dict[int, int]:
    """GPU -> bytes in use, of a question of its own. Without an answer they stay unknown."""
    found = {}
    for entry in _parsed(run([program, *METRIC[1:]], SECONDS).text) or []:
        index = system.whole(entry.get("gpu"))
        used = system.scaled(_inside(entry, "mem_usage", "used_vram", "value"), MIB)
        if index is not None and used is not None:
            found[index] = used
    return found


def _gpu(entry: Mapping[str, Any], place: int, used: Mapping[int, int]) -> Gpu:
    number = system.whole(entry.get("gpu"))
    index = place if number is None else number
    size = _inside(entry, "vram", "size")
    size = size.get("value") if isinstance(size, dict) else size
    gfx = _inside(entry, "asic", "target_graphics_version")
    return Gpu(
        vendor="rocm",
        index=index,
        name=word(_inside(entry, "asic", "market_name")) or "AMD GPU",
        arch=Arch("gfx", gfx) if isinstance(gfx, str) and gfx.startswith("gfx") else UNKNOWN,
        source="amd-smi",
        total_bytes=system.scaled(size, MIB),
        used_bytes=used.get(index),
        bus_id=system.bus_id(_inside(entry, "bus", "bdf")),
        hip_uuid=system.hip_uuid(_inside(entry, "asic", "asic_serial")),
        compute_partition=word(_inside(entry, "partition", "accelerator_partition")
                                           or _inside(entry, "partition", "compute_partition")),
        memory_partition=word(_inside(entry, "partition", "memory_partition")),
    )  # fmt: skip


def _inside(entry: Mapping[str, Any], *names: str) -> Any:
    value: Any = entry
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
