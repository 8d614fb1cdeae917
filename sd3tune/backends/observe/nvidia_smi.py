"""`nvidia-smi`, NVIDIA's program: the same facts as NVML's, without any Python package.

The cards come from a query of named fields. Only the newest CUDA that the driver offers comes from
the header of its table, since no query has it. Nothing here raises.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sd3tune.backends.observe import card_health, system
from sd3tune.backends.observe.facts import Arch, Gpu, Problem, Severity, Survey
from sd3tune.backends.observe.nvml import COMPUTE_MODES, INIT, UNKNOWN, problem

MIB = 2**20
SECONDS = 6.0  # for the query; what is left of the source's time is for the header
HEADER_SECONDS = 3.0
FIELDS = (
    "index,name,uuid,pci.bus_id,driver_version,memory.total,memory.used,compute_cap,"
    "temperature.gpu,power.limit,power.default_limit,ecc.errors.uncorrected.volatile.total,"
    "pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max,"
    "compute_mode,mig.mode.current"
)
FOLDER = "usr/lib/wsl/lib"  # of Windows' subsystem for Linux
QUERY = ("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
# A driver does not know fields that are newer than itself, and then refuses the whole query.
UNKNOWN_FIELD = re.compile(r'Field "([\w.]+)" is not a valid field to query')
# "CUDA Version: 12.2", since driver 610 "CUDA UMD Version: 13.4" (docs/reference/hardware.md).
CUDA = re.compile(r"CUDA (?:\w+ )?Version\s*:\s*(\d+\.\d+)")
FIXES = {
    "absent": "install the driver's nvidia-utils; in a container: docker run --gpus all "
    "-e NVIDIA_DRIVER_CAPABILITIES=compute,utility …",
    "forbidden": "let this user start it: ls -l $(command -v nvidia-smi)",
    "hangs": "reboot, or reinstall the NVIDIA driver; training on this card may hang in the same "
    "way",
}
Run = Callable[[list[str], float], system.ProgramOutput]


@dataclass
class _Asked:
    """The program, and what was wrong with its answers."""

    run: Run
    program: str
    problems: list[Problem] = field(default_factory=list)

    def report(self, kind: str, severity: Severity, words: str, fix: str = "") -> None:
        fix = fix or FIXES.get(kind) or "reinstall the NVIDIA driver and reboot"
        self.problems.append(problem(f"smi-{kind}", severity, f"nvidia-smi {words}", fix))


def survey(root: Path, run: Run = system.output) -> Survey:
    """The cards, the driver and the newest CUDA that it offers. run: starts a program, as
    system.output does."""
    asked = _Asked(run, system.program("nvidia-smi", root, FOLDER))
    rows = _rows(asked)
    runtime = _runtime(asked) if rows or not asked.problems else None
    driver = next((r["driver_version"] for r in rows if r.get("driver_version", "")[:1].isdigit()),
                  None)  # fmt: skip
    gpus = tuple(_gpu(row, place) for place, row in enumerate(rows))
    answered = bool(gpus or runtime)
    source = "nvidia-smi" if answered else None
    return Survey("cuda", gpus, driver, runtime, source, tuple(asked.problems))


def _rows(asked: _Asked) -> list[dict[str, str]]:
    """Field -> text of every card; fields that this driver does not know are left out."""
    names = FIELDS.split(",")
    for _ in range(len(FIELDS.split(","))):
        query = [asked.program, f"--query-gpu={','.join(names)}", *QUERY[2:]]
        output = asked.run(query, SECONDS)
        newer = UNKNOWN_FIELD.search(output.text) if output.cause == "failed" else None
        if newer is None or newer.group(1) not in names or len(names) == 1:
            break
        names.remove(newer.group(1))
    lines = [line.strip() for line in output.text.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    cards = [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
    cards = [c for c in cards if c.get("index", "").isdigit()]
    _report(asked, output, lines, len(cards))
    return cards


def _report(asked: _Asked, output: system.ProgramOutput, lines: list[str], cards: int) -> None:
    """What is wrong with an answer in which so many lines are cards. The program may print its
    table and fail all the same, with words below it: a corrupted infoROM is exit code 14."""
    lost = [line for line in lines if "Unable to determine the device handle" in line]
    others = [line for line in lines if "," not in line]
    warned = next((line for line in others if line.upper().startswith("WARNING")), None)
    if lost:
        asked.report("gpu-lost", "fail", f"cannot reach a card: {lost[0][:160]}", INIT[15][3])
    elif output.cause is not None and not (cards and output.cause == "failed"):
        _failed(asked, output)
    elif warned is not None or output.cause is not None:
        said = warned or (others[0] if others else output.message.partition(":")[0])
        asked.report("warned", "warn", f"says: {said[:160]}", "look at nvidia-smi -q")
    elif not output.utf8:
        asked.report("garbage", "warn", "prints bytes that are not UTF-8: they are left out")
    elif "No devices were found" not in output.text and (cards < len(lines) or not lines):
        printed = f"`{lines[0][:80]}`" if lines else "nothing"
        asked.report("garbage", "warn", f"prints rubbish in place of its table: {printed}")


def _failed(asked: _Asked, output: system.ProgramOutput) -> None:
    """A problem in the program's own words, for what nvidia-smi says of the driver."""
    text = f"{output.text} {output.message}"
    if "Driver/library version mismatch" in text:
        _, severity, _, fix = INIT[18]
        asked.report("mismatch", severity, "and the kernel driver are of different versions", fix)
    elif "communicate with the NVIDIA driver" in text:
        _, severity, _, fix = INIT[9]
        asked.report("no-driver", severity, "cannot reach the NVIDIA kernel driver", fix)
    elif "nsufficient Permissions" in text or "Permission denied" in text:
        asked.report("forbidden", "fail", "may not open the driver's device files",
                     "look at the owner and mode of /dev/nvidia*")  # fmt: skip
    elif "No devices were found" not in text:
        severity = "warn" if output.cause == "absent" else "fail"
        asked.report(output.cause or "failed", severity, output.message)


def _runtime(asked: _Asked) -> str | None:
    """ "12.2": the header's CUDA version. The query answered, so a failure here is no finding."""
    found = CUDA.search(asked.run([asked.program], HEADER_SECONDS).text)
    return found.group(1) if found else None


def _gpu(row: Mapping[str, str], place: int) -> Gpu:
    def cell(name: str) -> str | None:
        text = row.get(name, "")
        return (
            None
            if text in ("", "N/A", "ERR!") or text.startswith("[") or "\ufffd" in text
            else text
        )

    capability = (cell("compute_cap") or "").replace(".", "")
    mode = (cell("compute_mode") or "").lower().replace("_process", "").replace("_thread", "")
    index = system.whole(cell("index"))
    return Gpu(
        vendor="cuda",
        index=place if index is None else index,
        name=cell("name") or "NVIDIA GPU",
        arch=Arch("sm", f"sm_{capability}") if capability.isdigit() else UNKNOWN,
        source="nvidia-smi",
        total_bytes=system.scaled(cell("memory.total"), MIB),
        used_bytes=system.scaled(cell("memory.used"), MIB),
        uuid=cell("uuid"),
        bus_id=system.bus_id(cell("pci.bus_id")),
        temperature_celsius=system.number(cell("temperature.gpu")),
        power_limit_watts=system.number(cell("power.limit")),
        power_default_watts=system.number(cell("power.default_limit")),
        ecc_uncorrected=system.whole(cell("ecc.errors.uncorrected.volatile.total")),
        mig=cell("mig.mode.current") == "Enabled",
        pcie_generation=system.whole(cell("pcie.link.gen.current")),
        pcie_generation_max=system.whole(cell("pcie.link.gen.max")),
        pcie_width=system.whole(cell("pcie.link.width.current")),
        pcie_width_max=system.whole(cell("pcie.link.width.max")),
        compute_mode=mode if mode in COMPUTE_MODES.values() else None,
        error=card_health.smi_lost(dict(row)),
    )
