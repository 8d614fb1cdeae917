"""A checkpoint folder as it lies on the disk: its name, its manifest, its run, and its damage.

sd3tune owns a folder whose manifest lists the files of a checkpoint. Any other folder, whatever its
name, is reported and never replaced, renamed or removed. Links are not followed.
"""

import json
import os
import re
import stat
import struct
import uuid
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sd3tune.filesystem import safetensors_header

FORMAT = 2
MANIFEST, STATE, RUN = "manifest.json", "state.json", "run.json"
TRAINED, OPTIMIZER, AVERAGE = "trained.safetensors", "optimizer.safetensors", "ema.safetensors"
WRITTEN = (MANIFEST, STATE, RUN, "plan.json", TRAINED, OPTIMIZER, AVERAGE)
REQUIRED = (STATE, TRAINED, OPTIMIZER)  # in every manifest
Kind = Literal["regular", "rolling", "best"]
# In a checkpoint's name. Rolling: kept for a while only. Best: the lowest evaluation loss so far.
SUFFIXES: dict[Kind, str] = {"regular": "", "rolling": "-rolling", "best": "-best"}
# The last number avoids the name of a folder that another program made.
NAME = re.compile(r"checkpoint-([0-9]{1,18})(-rolling|-best)?(?:-[0-9]{1,6})?")
MAX_MANIFEST_BYTES, MAX_STATE_BYTES = 2**20, 2**26
DIGEST_BYTES = 16  # of a checksum
MAX_BATCHES = 2**16  # in one step, by all processes together
Number = int | float


class SavedState(BaseModel):
    """state.json: what of TrainState is not a tensor."""

    model_config = ConfigDict(strict=True, frozen=True)
    format: int
    step: int = Field(ge=0, lt=2**63)
    position: int = Field(ge=0, lt=2**63)
    noise: int = Field(ge=0, lt=2**64)
    loss_before: float | None
    recent_losses: list[float]
    lowered_until: int = Field(ge=0, lt=2**63)
    evaluations: list[list[Number]] = []  # not in checkpoints of before
    scaler: dict[str, Number]
    optimizer: dict[str, Any]
    optimizer_class: str


@dataclass(frozen=True)
class Named:
    """The checkpoint that `--resume` named when a run went back to it."""

    name: str
    manifest: str  # checksum of its manifest: the same wherever it lies


@dataclass(frozen=True)
class Lineage:
    """run.json: which run a checkpoint belongs to; "" in checkpoints of before there was one."""

    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # kept when a run is resumed
    named: Named | None = None


def folders(output: Path) -> list[Path]:
    """Folders named as checkpoints are, whosever they are, lowest step first."""
    named = [p for p in output.glob("checkpoint-*") if step_of(p) >= 0 and p.is_dir()]
    return sorted(named, key=lambda p: (step_of(p), p.name))


def step_of(folder: Path) -> int:
    """The step in the folder's name; -1 where it is not the name of a checkpoint."""
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def kind_of(folder: Path) -> Kind:
    """The kind of a checkpoint, by its name."""
    match = NAME.fullmatch(folder.name)
    suffix = match[2] if match else None
    return next(kind for kind, each in SUFFIXES.items() if each == (suffix or ""))


def listing(folder: Path) -> dict[str, str]:
    """File name -> checksum. Raises OSError and ValueError where there is no such manifest."""
    listed = _json(folder / MANIFEST, MAX_MANIFEST_BYTES)
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{MANIFEST} lists no files")
    for name, checksum in listed.items():
        if name in ("", ".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{MANIFEST} names {name[:80]!r}, which is not a file of the folder")
        if not isinstance(checksum, str):
            raise ValueError(f"{MANIFEST} has no checksum for {name[:80]!r}")
    return listed


def is_ours(folder: Path, run: str = "") -> bool:
    """Whether its manifest says that we wrote it, whole or damaged by now; in `run` when given."""
    try:
        ours = not folder.is_symlink() and set(REQUIRED) <= listing(folder).keys()
    except (OSError, ValueError):
        return False
    return ours and (not run or lineage(folder).run in ("", run))


def is_renamed(folder: Path) -> bool:
    """Whether the step in the folder's name is not the step in its state. Raises OSError and
    ValueError for a damaged state."""
    return facts(folder).step != step_of(folder) >= 0


def resembles(folder: Path) -> bool:
    """Whether sd3tune wrote a folder, judged by the names of its files: the manifest or
    trained.safetensors, or two of the files that a checkpoint holds."""
    known = [name for name in WRITTEN if os.path.lexists(folder / name)]
    return MANIFEST in known or TRAINED in known or len(known) > 1


def lineage(folder: Path) -> Lineage:
    """Raises nothing: a checkpoint whose run cannot be read has none."""
    try:
        read = _json(folder / RUN, MAX_MANIFEST_BYTES)
        named = None if read["named"] is None else Named(**read["named"])
        return Lineage(str(read["run"]), named)
    except (OSError, ValueError, KeyError, TypeError):
        return Lineage("")


def facts(folder: Path) -> SavedState:
    """Raises OSError and ValueError, in one line."""
    read = _json(folder / STATE, MAX_STATE_BYTES)
    if not isinstance(read, dict) or "format" not in read:
        raise ValueError(f"{STATE} has no `format`")
    if read["format"] != FORMAT:
        raise ValueError(f"its format is {read['format']!r:.40}, this sd3tune reads {FORMAT}")
    try:
        found = SavedState.model_validate(read)
        if found.position > found.step * MAX_BATCHES:  # to find that place would take for ever
            raise ValueError(f"{STATE}: `position` is {found.position} at step {found.step}")
        return found
    except ValidationError as e:
        wrong = e.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        if wrong["type"] == "missing":
            raise ValueError(f"{STATE} has no `{key}`") from None
        raise ValueError(f"{STATE}: `{key}` is {wrong['input']!r:.40}: {wrong['msg']}") from None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when every file has its checksum and the folder's name,
    if it is a checkpoint's, has its step. Reads every byte."""
    try:
        listed = listing(folder)
        for name, expected in listed.items():
            if _too_long(folder / name) or checksum(folder / name) != expected:
                return f"{name} does not have its checksum"
        if missing := [name for name in REQUIRED if name not in listed]:
            return f"{MANIFEST} does not list {missing[0]}"
        if is_renamed(folder):
            return f"it was renamed: {STATE} is of step {facts(folder).step}"
    except FileNotFoundError as e:
        return f"{Path(e.filename).name} is missing"
    except OSError as e:
        return f"{Path(e.filename or folder).name}{': ' if e.errno else ' '}{e.strerror}"
    except ValueError as e:
        return str(e)
    return None


def latest(output: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The whole checkpoint of the highest step, and a sentence for each folder passed over."""
    passed: list[str] = []
    for folder in reversed(folders(output)):
        if (why := _passed(folder)) is None:
            return folder, tuple(passed)
        passed.append(f"`{folder}` is passed over: {why}")
    return None, tuple(passed)


def damaged(output: Path) -> list[str]:
    """Name and reason of each checkpoint that is ours, or was, and cannot be read."""
    ours = [f for f in reversed(folders(output)) if resembles(f)]
    return [f"{f.name}: {why}" for f in ours if (why := _passed(f)) is not None]


def _passed(folder: Path) -> str | None:
    if folder.is_symlink():
        return "it is a symbolic link; `--resume` may name it"
    if not resembles(folder):
        return "it is not a checkpoint of sd3tune, and is left alone"
    return damage(folder)


def checksum(path: Path) -> str:
    """Raises OSError, also for what is not a regular file."""
    h = blake2b(digest_size=DIGEST_BYTES)
    with _opened(path) as f:
        while chunk := f.read(2**20):
            h.update(chunk)
    return h.hexdigest()


def _json(path: Path, most_bytes: int) -> Any:
    with _opened(path) as f:
        text = f.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"{path.name} has more than {most_bytes} bytes")
    if not text.strip():
        raise ValueError(f"{path.name} is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name} is not JSON") from None


def _opened(path: Path) -> BinaryIO:
    """Never through a link, and never waiting for the writer of a FIFO."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        kind = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a regular file"
        raise OSError(0, kind, str(path))
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _too_long(path: Path) -> bool:
    """A safetensors file with more bytes than its header says, or a document of a size that is
    never written: a terabyte of holes is not read."""
    with _opened(path) as f:
        size = os.fstat(f.fileno()).st_size
        if path.suffix != ".safetensors":
            return size > MAX_STATE_BYTES
        if size < 8 or (length := struct.unpack("<Q", f.read(8))[0]) > safetensors_header.LARGEST:
            return size > safetensors_header.LARGEST
        try:
            header = json.loads(f.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            return bool(size > 8 + length + max(ends, default=0))
        except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
            return size > safetensors_header.LARGEST
