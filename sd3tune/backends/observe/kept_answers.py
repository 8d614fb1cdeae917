"""Answers of probes, kept on this disk: they hold until the device, its driver, a package or the
probes themselves change.

One file for each such state, in a folder that only this user can enter. A file that cannot be read,
was made for another state or by somebody else counts as not there, and one that cannot be written
is not kept: the probes run again.
"""

import hashlib
import json
import os
import pwd
import site
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from sd3tune import __version__
from sd3tune.backends.decide.probes import IMPORT, ProbeAnswer, probes
from sd3tune.backends.observe.facts import Facts
from sd3tune.filesystem import drafts, opening

SCHEMA = 1
# Files of 10 kB; those that were not used for the longest time are removed. Each virtual
# environment has its own, and so has each card, and each value of a variable such as
# OMP_NUM_THREADS or CUDA_VISIBLE_DEVICES; several machines may share a home.
STATES = 256
# An answer that does not last is kept this long, and only for the processes of one run.
UNANSWERED_SECONDS = 600.0
TURN_SECONDS = 180.0  # for the probes of another process: more than one child may take
PACKAGE = Path(__file__).parents[2]
SOURCES = ("backends", "quant", "tables")  # rooms whose code makes the answers
MADE_BY = (".py", ".safetensors")
# Beginnings of variables that change what a device computes or what Python imports.
VARIABLES = ("CUDA_", "HIP_", "HSA_", "ROCR_", "GPU_DEVICE_ORDINAL", "MIOPEN_", "PYTORCH_", "TORCH",
             "ATEN_", "DNNL_", "ONEDNN_", "OMP_", "MKL_", "LD_LIBRARY_PATH", "LD_PRELOAD",
             "PYTHONPATH", "SD3TUNE_BACKEND")  # fmt: skip
CODE = ("#", "import ", "import\t")  # beginnings of lines in .pth files that name no folder
# Set by a launcher (processes/launch.py, torchrun): no probe depends on them.
LAUNCHED = ("TORCHELASTIC_", "TORCH_NCCL_", "TORCH_CPP_LOG_LEVEL", "TORCH_DISABLE_SHARE_RDZV")


def folder(environ: Mapping[str, str]) -> Path | None:
    """The folder of kept answers, below the user's cache folder; None without one."""
    named = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # noqa: PTH117
        return Path(named) / "sd3tune" / "probes"
    home = home_of(environ)
    return None if home is None else home / ".cache" / "sd3tune" / "probes"


def home_of(environ: Mapping[str, str]) -> Path | None:
    """The user's own folder; None without one. An empty or relative HOME counts as unset: Python
    takes the root of the file system then."""
    named = environ.get("HOME", "")
    if not os.path.isabs(named):  # noqa: PTH117
        try:
            named = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:  # a container's user without an entry
            return None
    return Path(named) if os.path.isabs(named) and named.strip("/") else None  # noqa: PTH117


def state(facts: Facts, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything on which an answer depends, as JSON data."""
    device = facts.weakest
    return {
        "device": [device.torch_device, device.name, device.arch.name, device.uuid],
        "driver": facts.driver,
        "runtime": facts.runtime,
        "torch": [facts.torch, facts.torch_build],
        "python": sys.version,
        "packages": packages(),
        "tools": dict(sorted(facts.tools.items())),
        "environment": variables(environ),
        "sd3tune": [__version__, sources()],
    }  # fmt: skip


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those on which an answer depends."""
    return {n: v for n, v in sorted(environ.items())
            if n.startswith(VARIABLES) and not n.startswith(LAUNCHED)}  # fmt: skip


@cache
def packages() -> str:
    """A digest of everything that is installed, with versions, as the names of the folders of
    metadata have them: to open each would take 0.1 s."""
    names = {name for folder in package_folders() for name in _names(folder)}
    return digest(name for name in names if name.endswith((".dist-info", ".egg-info")))


def package_folders() -> list[str]:
    """Where this Python looks for installed packages when it starts. sys.path also has the folder
    of the script or the working folder, and what imports have added: setuptools adds its own
    packages, with metadata."""
    installed = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        installed.append(site.getusersitepackages())
    named = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    added = [entry for folder in installed for entry in linked(folder)]
    return [*filter(None, named.split(os.pathsep)), *installed, *added]


def linked(folder: str) -> list[str]:
    """The folders that .pth files in a folder add to sys.path, as `site` reads them."""
    entries = list[str]()
    for name in _names(folder):
        if name.endswith(".pth"):
            with suppress(OSError, UnicodeDecodeError):
                lines = (Path(folder) / name).read_text(encoding="utf-8-sig").splitlines()
                lines = [
                    line.strip()
                    for line in lines
                    if not line.startswith(("#", "import ", "import\t"))
                ]
                entries += [str(Path(folder, line)) for line in lines if line]
    return [str(Path(folder, entry)) for entry in entries if entry]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  a third of the time
    except OSError:  # an entry that does not exist, or an archive
        return []


@cache
def sources(package: Path = PACKAGE) -> str:
    """A digest of the code that makes the answers, and of the recorded activations it checks
    attention with: another check asks anew."""
    files = (p for room in SOURCES for end in MADE_BY for p in (package / room).rglob(f"*{end}"))
    return digest(
        f"{p.relative_to(package)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files
    )


def digest(entries: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(entries)).encode()).hexdigest()


def path_of(folder: Path, state: Mapping[str, Any]) -> Path:
    return folder / (hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16] + ".json")


def load(folder: Path | None, state: Mapping[str, Any], *, several: bool) -> dict[str, ProbeAnswer]:
    """The kept answers, by probe. several: the processes of one run must decide alike, so a probe
    that failed or gave no answer a moment ago is not tried again."""
    if folder is None or not ours(folder):
        return {}
    try:
        document = opening.json_object(path_of(folder, state))
        if document["schema"] != SCHEMA or document["state"] != json.loads(json.dumps(state)):
            return {}
        rows = {name: (_answer(row), float(row["at"])) for name, row in document["answers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    used(path_of(folder, state))
    young = time.time() - UNANSWERED_SECONDS
    return {n: a for n, (a, at) in rows.items() if lasting(n, a) or (several and at > young)}


def lasting(name: str, answer: ProbeAnswer) -> bool:
    """Whether an answer holds for the next run. No answer does not, and neither does a failed
    import or essential probe: what mends it (the same version installed again, a system library, a
    free device) may leave the state as it was."""
    row = probes().get(name)
    refuses = name.startswith(IMPORT) or (row is not None and row.essential)
    return answer.answered and (answer.ok or not refuses)


def _answer(row: Mapping[str, Any]) -> ProbeAnswer:
    """Raises KeyError and TypeError for another document."""
    answer = ProbeAnswer(row["ok"], row["words"], row["seconds"], row["fix"], row["answered"])
    texts = isinstance(answer.words, str) and isinstance(answer.fix, str)
    flags = isinstance(answer.ok, bool) and isinstance(answer.answered, bool)
    if not texts or not flags or not isinstance(answer.seconds, int | float | None):
        raise TypeError("an answer of another shape")
    return answer


def store(
    folder: Path | None, state: Mapping[str, Any], answers: Mapping[str, ProbeAnswer]
) -> None:
    """The file of this state, whole or not at all. Never raises."""
    if folder is None:
        return
    now = time.time()
    rows = {name: asdict(a) | {"at": now} for name, a in sorted(answers.items())}
    document = {"schema": SCHEMA, "state": state, "answers": rows}
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if ours(folder):
            drafts.write(path_of(folder, state), (json.dumps(document, indent=1) + "\n").encode())
            remove_oldest(folder, "[0-9a-f]*.json")


def used(path: Path) -> None:
    """Notes in a file's time that its answer was used just now. Never raises."""
    with suppress(OSError):
        os.utime(path)


def remove_oldest(folder: Path, pattern: str) -> None:
    """Removes all but the STATES files of the pattern that were written or used last. Raises
    OSError."""
    for old in sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime)[:-STATES]:
        old.unlink(missing_ok=True)


@contextmanager
def turn(folder: Path | None, most_seconds: float = TURN_SECONDS) -> Iterator[None]:
    """Lets one of several processes probe at a time, so that the others read its answers. Where
    files cannot be locked, or the one before is suspended for `most_seconds`, all probe at once."""
    end = time.monotonic() + most_seconds
    with ExitStack() as held:
        with suppress(OSError):
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                while ours(folder) and time.monotonic() < end:
                    if held.enter_context(drafts.drafted(folder / ".lock")) is not None:
                        break
                    time.sleep(0.1)
        yield


def ours(folder: Path) -> bool:
    """A folder of this user's that nobody else can write to."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
