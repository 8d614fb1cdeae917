"""Removes old checkpoints: only whole ones of this run, and never the one just written.

Before a checkpoint is counted or removed every byte of it is compared with its checksum, once in a
process; those that this process wrote are known. So a run that was resumed reads up to
checkpoints_total_limit checkpoints when it first has one too many, and none after that.
"""

import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sd3tune.formats.manifest import NAME, Kind, damage, folders, is_ours, kind_of, step_of
from sd3tune.report.progress import say, warn

# A folder on its way in, and one on its way out.
DRAFT, OLD = ".tmp", ".old"
PASSING = re.compile(rf"\.({NAME.pattern})(\.tmp|\.old)")
# All files that a checkpoint consists of, and drafts of theirs.
WRITTEN = re.compile(r"[^.].*\.(safetensors|json)|\..+\.(safetensors|json)\.tmp")

Signature = tuple[tuple[str, int, int, int], ...]  # name, bytes, time and inode of each file


class Removals:
    """Removes the files of old checkpoints beside the training: the disk takes as long for that as
    for writing one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="removal")
        self._begun: list[Future[None]] = []

    def begin(self, away: Path) -> None:
        """Begins to remove a folder that has no checkpoint's name any more."""
        self._begun.append(self._pool.submit(clear, away))

    def wait(self) -> None:
        """Returns when all of them are removed."""
        while self._begun:
            self._begun.pop().result()


@dataclass
class Verified:
    """Checkpoints whose bytes this process wrote, or compared with their checksums; and those that
    it removes."""

    signatures: dict[Path, Signature] = field(default_factory=dict)
    removals: Removals = field(default_factory=Removals)

    def add(self, folder: Path) -> None:
        """Remembers a checkpoint that this process has just written."""
        with suppress(OSError):
            self.signatures[folder] = _signature(folder)

    def whole(self, folder: Path) -> bool:
        """Whether every byte of a checkpoint is right; read again only when a file has changed."""
        try:
            now = _signature(folder)
        except OSError:
            return False
        if self.signatures.get(folder) == now:
            return True
        if damage(folder) is not None:
            return False
        self.signatures[folder] = now
        return True


def _signature(folder: Path) -> Signature:
    files = sorted((p.name, p.lstat()) for p in folder.iterdir())
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in files)


def prune(
    output: Path,
    keep: int,
    *,
    kind: Kind = "regular",
    run: str = "",
    newest: Path | None = None,
    verified: Verified | None = None,
) -> None:
    """Removes the oldest whole checkpoints of one kind beyond `keep`.

    run: of any run when "". newest: the one just written; it is counted, stays, and what lies
    beyond its step is neither counted nor removed, since the run did not come that way. verified:
    its removals may go on afterwards; without it they are waited for."""
    if verified is None:
        verified = Verified()
        prune(output, keep, kind=kind, run=run, newest=newest, verified=verified)
        verified.removals.wait()
        return
    verified.removals.wait()  # `recover` would give a folder its name back while it is removed
    recover(output)
    kept = 0 if newest is None else 1
    for folder in reversed(folders(output)):
        beyond = newest is not None and step_of(folder) > step_of(newest)
        if folder == newest or beyond or kind_of(folder) != kind or not is_ours(folder, run):
            continue
        if not verified.whole(folder):
            continue
        if kept < keep:
            kept += 1
        else:
            _remove(folder, verified.removals)


def _remove(folder: Path, removals: Removals) -> None:
    """Renamed first, so that a kill leaves no torn checkpoint under a checkpoint's name."""
    away = folder.with_name(f".{folder.name}{OLD}")
    try:
        folder.rename(away)
    except OSError as e:
        warn(f"`{folder}` cannot be removed: {e.strerror}")
        return
    removals.begin(away)


def recover(output: Path) -> None:
    """Cleans up after a kill. A whole checkpoint that was being written or removed gets its name
    back, unless another checkpoint has that name; other unfinished folders are removed."""
    for passing in sorted(output.glob(".checkpoint-*"), reverse=True):  # drafts are newer
        if (match := PASSING.fullmatch(passing.name)) is None:
            continue
        final = output / match[1]
        if not os.path.lexists(final) and is_ours(passing) and damage(passing) is None:
            with suppress(OSError):
                passing.rename(final)
                say(f"note: `{final}` was left half renamed, and has its name back")
        else:
            clear(passing)


def clear(passing: Path) -> None:
    """Removes a folder of ours that was on its way in or out; leaves any other."""
    with suppress(OSError):
        if not passing.is_symlink() and all(map(_is_written, passing.iterdir())):
            shutil.rmtree(passing, ignore_errors=True)


def _is_written(path: Path) -> bool:
    return bool(WRITTEN.fullmatch(path.name)) and path.is_file() and not path.is_symlink()
