"""The peaks of the stages of a run, counted in a child process and kept on this disk.

A count depends on the model's shape, the load, and the code that counts: it is kept under a digest
of these and the versions of the libraries. Nothing here imports torch.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

from sd3tune import __version__
from sd3tune.backends.observe import child, kept_answers
from sd3tune.backends.observe.kept_answers import PACKAGE, digest
from sd3tune.counted.load_data import written
from sd3tune.filesystem import drafts, opening
from sd3tune.filesystem.temporary import private_folder
from sd3tune.plan.memory import Load
from sd3tune.plan.stage_loads import CaptionLoad, LatentLoad, PictureLoad, StageLoad
from sd3tune.report.progress import waiting
from sd3tune.sd3.variants import TEXT_ENCODERS, VAE, Transformer

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "optimum-quanto", "bitsandbytes",
             "lycoris-lora")  # fmt: skip
ROOMS = ("counted", "adapters", "quant", "sd3", "train")  # whose code a count runs
TIMEOUT_SECONDS = 300.0  # SD3.5 large takes 20 s of one core, and machines are busy
VERSION = "Version:"  # of the line in a package's metadata
KEPT = 256  # files; those that were not used for the longest time are removed


@dataclass(frozen=True)
class Counting:
    """Bytes of tensors at the peak of a stage, or one sentence on why they are not counted."""

    peak: int | None
    why: str = ""


def count(
    shape: Transformer, loads: Sequence[StageLoad], environ: Mapping[str, str] = os.environ
) -> list[Counting]:
    """The count of each load: kept, or made now in children. shape: of the transformer."""
    counted = [Counting(kept(shape, load, environ), uncountable(load) or "") for load in loads]
    missing = [i for i, one in enumerate(counted) if one.peak is None and not one.why]
    # A step takes as long as the other stages together: one child each, beside each other.
    steps = [i for i in missing if isinstance(loads[i], Load)]
    groups = [group for group in (steps, [i for i in missing if i not in steps]) if group]
    doing: dict[str, str] = {}
    with waiting(lambda: _words(doing)), ThreadPoolExecutor(len(groups) or 1) as threads:
        asked = [
            threads.submit(_asked, shape, [loads[i] for i in group], doing) for group in groups
        ]
        answers = [future.result() for future in asked]
    for group, (peaks, error) in zip(groups, answers, strict=True):
        for i, peak in zip_longest(group, peaks):
            counted[i] = Counting(peak, error)
            if peak is not None:
                _keep(place(shape, loads[i], environ), peak)
    return counted


def _words(doing: Mapping[str, str]) -> str:
    stages = ", ".join(sorted({name for name in doing.values() if name}))
    return f"counting memory under fake tensors{stages and f': {stages}'}"


def _asked(
    shape: Transformer, loads: Sequence[StageLoad], doing: dict[str, str]
) -> tuple[list[int], str]:
    """Peaks from a child process, and why there are none. doing: gets the stage of now."""
    with private_folder("count") as folder:
        file = folder / "loads.json"
        file.write_text(json.dumps([written(shape, load) for load in loads]))

        def now(stage: str) -> None:
            doing[str(folder)] = stage

        answer = child.ask("count", [str(file)], timeout_seconds=TIMEOUT_SECONDS, now=now)
        doing.pop(str(folder), None)
    if answer.data is None:
        return [], answer.error or "no answer"
    return [stage["peak"] for stage in answer.data["stages"]], ""


def peak_bytes(shape: Transformer, load: StageLoad) -> int | None:
    """Bytes of tensors at the peak of a stage; None where it is not counted."""
    return count(shape, [load])[0].peak


def uncountable(load: StageLoad) -> str | None:
    """Why a load is not counted; None: it can be."""
    if isinstance(load, PictureLoad):
        return uncountable(replace(load.training, compiled=False)) or _without_sizes(load)
    if not isinstance(load, Load):
        return _without_sizes(load)
    if load.processes > 1:
        return "a run of several processes is not counted"
    if load.compiled:
        return "compiled blocks are not counted"
    if load.swapped and load.precision == "nf4-bnb":
        return "nf4 weights that visit the device are not counted"
    return None


def _without_sizes(load: CaptionLoad | LatentLoad | PictureLoad) -> str | None:
    released = (
        set(load.encoders) <= {0, *TEXT_ENCODERS}
        if isinstance(load, CaptionLoad)
        else load.vae == VAE
    )
    return None if released or load.folder else "the sizes of the model are not on this disk"


def kept(
    shape: Transformer, load: StageLoad, environ: Mapping[str, str] = os.environ
) -> int | None:
    """The peak of a count that was made before; None where there is none."""
    if uncountable(load) is not None or not any(_kept_files(environ)):
        return None  # without the digests, which take 30 ms
    path = place(shape, load, environ)
    if path is None:
        return None
    try:
        found = int(opening.json_object(path)["peak"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept_answers.used(path)
    return found


def place(shape: Transformer, load: StageLoad, environ: Mapping[str, str]) -> Path | None:
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


def _keep(path: Path | None, peak: int) -> None:
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        drafts.write(path, json.dumps({"peak": peak, "at": time.time()}).encode())
        files = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)
