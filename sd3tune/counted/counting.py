"""The peak of a training step, counted in a child process and kept on this disk.

A count depends on the model's shape, the load, and the code that counts: it is kept under a digest
of these and the versions of the libraries. Nothing here imports torch.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from sd3tune import __version__
from sd3tune.backends.observe import child, kept_answers
from sd3tune.backends.observe.kept_answers import PACKAGE, digest
from sd3tune.counted.load_data import written
from sd3tune.filesystem import drafts, opening
from sd3tune.filesystem.temporary import private_folder
from sd3tune.plan.memory import Load
from sd3tune.report.progress import waiting
from sd3tune.sd3.variants import Transformer

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "optimum-quanto", "bitsandbytes",
             "lycoris-lora")  # fmt: skip
ROOMS = ("counted", "adapters", "quant", "sd3", "train")  # whose code a count runs
TIMEOUT_SECONDS = 300.0  # SD3.5 large takes 10 s of one core, and machines are busy
VERSION = "Version:"  # of the line in a package's metadata
KEPT = 64  # files; those that were not used for the longest time are removed


@dataclass(frozen=True)
class StepCount:
    """Bytes of tensors before the loop, and at the peak of a step."""

    before: int
    peak: int


def count(shape: Transformer, load: Load, environ: Mapping[str, str] = os.environ) -> "Counting":
    """The count of this load: kept, or made now."""
    if (why := uncountable(load)) is not None:
        return Counting(None, why)
    if (found := kept(shape, load, environ)) is not None:
        return Counting(found)
    with waiting("counting the memory of a step"), private_folder("count") as folder:
        file = folder / "load.json"
        file.write_text(json.dumps(written(shape, load)))
        answer = child.ask("count", [str(file)], timeout_seconds=TIMEOUT_SECONDS)
    if answer.data is None:
        return Counting(None, answer.error or "no answer")
    made = StepCount(answer.data["before"], answer.data["peak"])
    _keep(place(shape, load, environ), made)
    return Counting(made)


def peak_bytes(shape: Transformer, load: Load) -> int | None:
    """Bytes of tensors at the peak of a step, and of what libraries allocate beside them; None
    where it is not counted."""
    found = count(shape, load)
    return None if found.step is None else found.step.peak


@dataclass(frozen=True)
class Counting:
    """A count, or one sentence on why there is none."""

    step: StepCount | None
    why: str = ""


def uncountable(load: Load) -> str | None:
    """Why a load is not counted; None: it can be."""
    if load.processes > 1:
        return "a run of several processes is not counted"
    if load.compiled:
        return "compiled blocks are not counted"
    if load.swapped and load.precision == "nf4-bnb":
        return "nf4 weights that visit the device are not counted"
    return None


def kept(
    shape: Transformer, load: Load, environ: Mapping[str, str] = os.environ
) -> StepCount | None:
    """A count that was made before; None where there is none."""
    if uncountable(load) is not None or not any(_kept_files(environ)):
        return None  # without the digests, which take 30 ms
    path = place(shape, load, environ)
    if path is None:
        return None
    try:
        document = opening.json_object(path)
        found = StepCount(int(document["before"]), int(document["peak"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept_answers.used(path)
    return found


def place(shape: Transformer, load: Load, environ: Mapping[str, str]) -> Path | None:
    """The file of a count, below the user's cache folder; None without one."""
    if (folder := kept_in(environ)) is None:
        return None
    key = digest([json.dumps(written(shape, load), sort_keys=True), counter()])
    return folder / f"{key[:24]}.json"


def kept_in(environ: Mapping[str, str]) -> Path | None:
    """The folder of counts, below the user's cache folder; None without one."""
    probes = kept_answers.folder(environ)
    return None if probes is None else probes.with_name("counts")


def _kept_files(environ: Mapping[str, str]) -> Iterator[Path]:
    folder = kept_in(environ)
    return iter(()) if folder is None else folder.glob("*.json")


@cache
def counter() -> str:
    """A digest of the code that counts, and of the versions of the libraries it runs."""
    files = (path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))
    code = (f"{p.relative_to(PACKAGE)} {p.read_text('utf-8')}" for p in files)
    return digest([__version__, *(f"{name} {_version(name)}" for name in LIBRARIES), *code])


def _version(name: str) -> str:
    """Of an installed package, or "none". metadata.version would read all that the package says
    about itself: 4 ms each."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return "none"
    lines = (package.read_text("METADATA") or package.read_text("PKG-INFO") or "").splitlines()
    versions = (line.removeprefix(VERSION) for line in lines if line.startswith(VERSION))
    return next(versions, "").strip()


def _keep(path: Path | None, step: StepCount) -> None:
    if path is None:
        return
    document = {"before": step.before, "peak": step.peak, "at": time.time()}
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        drafts.write(path, json.dumps(document).encode())
        files = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)
