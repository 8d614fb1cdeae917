"""What PyTorch said of this machine, kept on this disk, so that the next command starts no child
process that imports it: 2 s on a CPU, 5 to 10 with a card.

It holds as long as nothing it can depend on has changed: the machine has not been started again,
its drivers show the same cards in the same state, the same processor, device files and variables,
and PyTorch's own files and every other package are the same. Only an answer without an error is
kept: a failure is asked for again. `sd3tune doctor` always asks, and its answer replaces this one.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sd3tune import __version__
from sd3tune.backends.observe import kept_answers, torch_report
from sd3tune.backends.observe.facts import Gpu, Machine, TorchReport
from sd3tune.backends.observe.system import read
from sd3tune.filesystem import drafts, opening

SCHEMA = 1
KIND = "torch-"  # beginning of the names of these files
# What torch shows depends on no other field of a card: heat and memory in use change all the time.
OF_CARD = ("vendor", "index", "name", "arch", "total_bytes", "uuid", "bus_id", "mig", "card_uuid",
           "compute_mode", "compute_partition", "memory_partition", "hip_index", "hip_uuid",
           "wired_limit_bytes", "fabric", "error")  # fmt: skip
BOOT = Path("/proc/sys/kernel/random/boot_id")
NODES = ("nvidia*", "kfd", "dri/*")  # below /dev: without the right to open them there is no card


@dataclass(frozen=True)
class KeptTorch:
    """Kept answers in a folder. folder: None keeps nothing. anew: nothing is read, only kept."""

    folder: Path | None = None
    anew: bool = False

    def begun(self) -> dict[str, Any] | None:
        """The answer that was kept for this software, before the cards are looked at; None where
        PyTorch has to be asked in any case. Never raises."""
        if self.folder is None or self.anew or not kept_answers.ours(self.folder):
            return None
        state = software(os.environ)
        try:
            document = opening.json_object(path_of(self.folder, state))
        except (OSError, ValueError):
            return None
        if document.get("schema") != SCHEMA or document.get("software") != state:
            return None
        kept_answers.used(path_of(self.folder, state))
        return document

    def store(self, machine: Machine, report: TorchReport) -> None:
        """Keeps a report without an error. Never raises."""
        if self.folder is None or not report.imported or report.error or report.devices_error:
            return
        state = software(os.environ)
        document = {"schema": SCHEMA, "software": state, "machine": hardware(machine),
                    "report": asdict(report)}  # fmt: skip
        data = (json.dumps(document, indent=1) + "\n").encode()
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if kept_answers.ours(self.folder):
                drafts.write(path_of(self.folder, state), data)
                kept_answers.remove_oldest(self.folder, f"{KIND}*.json")


def forget(folder: Path | None) -> None:
    """Removes the answer of this software. Never raises."""
    if folder is not None:
        with suppress(OSError):
            path_of(folder, software(os.environ)).unlink(missing_ok=True)


def report_of(document: Mapping[str, Any], machine: Machine) -> TorchReport | None:
    """The kept report where it was made for this very machine; None where it was not, or is not
    what `store` wrote."""
    if document.get("machine") != hardware(machine):
        return None
    try:
        return torch_report.from_answer(dict(document["report"]))
    except (KeyError, TypeError, ValueError):
        return None


def path_of(folder: Path, software: Mapping[str, Any]) -> Path:
    """One file for each state of the software, so that virtual environments keep their own."""
    name = hashlib.sha256(json.dumps(software).encode()).hexdigest()[:16]
    return folder / f"{KIND}{name}.json"


def software(environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can be known before a driver is asked, as JSON data."""
    return plain({
        "sd3tune": __version__,
        "python": [sys.version, sys.prefix],
        "torch": files(),
        "packages": kept_answers.packages(),
        "environment": kept_answers.variables(environ),
        "boot": read(BOOT).strip(),
    })  # fmt: skip


def files() -> list[list[Any]]:
    """PyTorch's version and libraries with size and time: a library that was damaged or replaced
    by another build of the same version is another one."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent
    return [[str(root)], *_stated([root / "version.py", *sorted((root / "lib").glob("*.*"))])]


def hardware(machine: Machine) -> dict[str, Any]:
    """What the drivers and the system show, as JSON data."""
    host = machine.host
    return plain({
        "host": [host.os, host.os_version, host.machine, host.cpu_name, host.container],
        "surveys": [
            [s.vendor, s.driver, s.runtime, [_card(gpu) for gpu in s.gpus],
             [problem.id for problem in s.problems]]
            for s in machine.surveys
        ],
        "nodes": [[str(node), os.access(node, os.R_OK | os.W_OK)]
                  for pattern in NODES for node in sorted(Path("/dev").glob(pattern))],
    })  # fmt: skip


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read again from a file: tuples become lists."""
    made: dict[str, Any] = json.loads(json.dumps(state))
    return made


def _card(gpu: Gpu) -> list[Any]:
    values = asdict(gpu)
    return [values[name] for name in OF_CARD]


def _stated(paths: Iterable[Path]) -> list[list[Any]]:
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append([path.name, status.st_size, status.st_mtime_ns])
    return found
