"""A local folder as the source of a dataset."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sd3tune.data.headers import SUFFIXES, suffix_of
from sd3tune.data.roots import Roots
from sd3tune.data.sources import CAPTION_BYTES, IMAGE_BYTES, Source, Tell
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

OUTPUT_MARK = ".sd3tune.lock"  # in every output_dir; train/lock.py creates and locks it


def open_source(dataset: "Stored", tell: Tell, own: Sequence[Path]) -> Source:
    """type=local."""
    assert dataset.instance_data_dir is not None  # settings see to it
    return Folder(dataset.instance_data_dir, dataset.allowed_roots, own)


class Folder(Source):
    """A local folder with its sub-folders. Hidden files and folders are excluded, and so is the
    output of runs: the folders `own`, and any folder that is the output_dir of a run."""

    ahead = 1  # headers are in the page cache, so threads would not help
    left_out: list[str]

    def __init__(self, root: Path, allowed: Sequence[Path] = (), own: Sequence[Path] = ()) -> None:
        self.root = str(root)
        self._roots = Roots(self.root, allowed)
        self._outside: list[str] = []
        self._own = own
        self.left_out = []

    def names(self) -> list[str]:
        return self.listed()[0]

    def listed(self) -> tuple[list[str], list[OSError]]:
        found: list[str] = []
        lost: list[OSError] = []
        seen: set[tuple[int, int]] = set()
        own = {(s.st_dev, s.st_ino) for s in map(_stat, self._own) if s is not None}
        self.left_out = []
        self._outside = []
        left = [("", self.root, False)]  # folders, and whether they are outside the dataset
        while left:
            prefix, folder, outside = left.pop()
            try:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in seen:  # a link to a parent folder
                    continue
                entries = _visible(folder)
            except OSError as e:  # no permission, or removed meanwhile
                lost.append(e)
                continue
            seen.add((here.st_dev, here.st_ino))
            if prefix and ((here.st_dev, here.st_ino) in own or _is_output(folder)):
                self.left_out.append(folder)
                continue
            for entry in entries:
                name, leaves = prefix + entry.name, outside
                if outside or entry.is_symlink():
                    leaves = not self._roots.lie_around(os.path.realpath(entry.path))
                if _is_folder(entry):
                    left.append((name + "/", entry.path, leaves))
                    continue
                found.append(name)
                if leaves and suffix_of(name) in SUFFIXES:
                    self._outside.append(name)
        return sorted(found), lost

    def where(self, name: str) -> str:
        return os.path.join(self.root, name)

    def stamp(self, name: str) -> str:
        return stamp(self.where(name))

    def open(self, name: str) -> BinaryIO:
        return opening.opened(self.where(name), IMAGE_BYTES)  # the caller closes it

    def caption(self, name: str) -> bytes:
        path = self.where(name)
        if self._roots.hold_folder(path.rpartition("/")[0]):
            data = opening.read_unlinked(path, CAPTION_BYTES)
            if data is not None:
                return data
        with opening.opened(path, CAPTION_BYTES) as f:
            if not self._roots.hold(path):
                raise OSError(self._roots.refusal("it is a link that"))
            return f.read()

    def warnings(self) -> list[str]:
        if not self._outside:
            return []
        first = min(self._outside)
        target = os.path.realpath(self.where(first))
        count = f"{len(self._outside)} images are" if self._outside[1:] else "1 image is"
        return [f"{count} behind links that leave `{self.root}`, such as `{first}`: it is "
                f"`{target}`; allowed_roots names folders where that is meant"]  # fmt: skip


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # missing or not accessible, so nothing is read there
        return None


def _is_output(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, OUTPUT_MARK))


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """In reverse order: they are put on a stack, so that the walk is in the order of names."""
    with os.scandir(folder) as entries:
        found = [e for e in entries if not e.name.startswith(".")]
    return sorted(found, key=lambda e: e.name, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links; opening it gives the error
        return False


def stamp(path: str) -> str:
    s = os.stat(path)
    # ctime as well: a copy with preserved times keeps mtime although the content changed.
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"
