"""Where the code that torch.compile makes is kept from run to run: below the user's cache folder.

PyTorch names every entry by a hash of the graph, the device, the versions of torch and Triton, and
every switch of the compiler, so an entry is never stale; an entry that cannot be read is compiled
again. It reads entries with pickle and loads libraries from them, so the folder must be this user's
and closed to everybody else (PyTorch's own default is a folder with a known name in /tmp). A folder
that is not is never used: the run compiles in a private folder, which is removed afterwards.
"""

import os
import shutil
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from sd3tune.backends.observe import kept_answers
from sd3tune.filesystem import cachedir

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # read by torch; a folder that the user set is kept
NAME = "compiled"


def root(environ: Mapping[str, str]) -> Path | None:
    """The folder of compiled code, beside that of kept answers; None without a cache folder."""
    probes = kept_answers.folder(environ)
    return None if probes is None else probes.with_name(NAME)


def version() -> str:
    """The name of this environment's folder: code of another torch is never read again."""
    python = "".join(map(str, sys.version_info[:2]))
    return f"torch-{metadata.version('torch')}-python{python}"


def prepare(environ: MutableMapping[str, str], folder: Path, default: str) -> Path:
    """Tells PyTorch of the folder, unless the user has set another one; returns what holds.
    default: PyTorch's own folder, to which PyTorch sets the variable when it is first asked."""
    if environ.get(VARIABLE) in (None, "", default):
        environ[VARIABLE] = str(folder)
    return Path(environ[VARIABLE])


def opened(parent: Path | None) -> Path | None:
    """The folder of this environment below `parent`, new or known; None where it cannot be made or
    is not this user's alone."""
    if parent is None:
        return None
    folder = parent / version()
    try:
        for one in (parent, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not closed(one):
                return None
        cachedir.mark(parent)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def closed(folder: Path) -> bool:
    """A folder of this user's that nobody else can enter, and not a link to another one."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return ours and folder.is_dir() and not folder.is_symlink()


def held(parent: Path | None) -> dict[str, int]:
    """Version -> bytes of compiled code."""
    if parent is None or not closed(parent):
        return {}
    return {child.name: size_bytes(child) for child in sorted(parent.iterdir()) if closed(child)}


def size_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; files that disappear meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if not path.is_dir() else 0
    return total


def prune(parent: Path | None, *, dry_run: bool) -> dict[str, int]:
    """Removes the code of other versions of torch and Python. The answer is their names and
    bytes."""
    gone = {name: size for name, size in held(parent).items() if name != version()}
    if parent is not None and not dry_run and cachedir.is_marked(parent):
        for name in gone:
            shutil.rmtree(parent / name, ignore_errors=True)
    return gone
