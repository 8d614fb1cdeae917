"""Where a dataset's files are: a folder, a bucket, the rows of a Hub dataset or of a .csv.

All of them list names, and open them for reading; nothing is ever written to any of them. A stamp
changes when the content may have changed, so that what is known about a file can be reused.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from sd3tune.data import hub_files
from sd3tune.data.headers import SUFFIXES, suffix_of
from sd3tune.data.roots import Roots
from sd3tune.errors import DataError
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

OUTPUT_MARK = ".sd3tune.lock"  # in every output_dir: train/lock.py holds it
IMAGE_BYTES = 2 * 2**30  # the largest image that may be decoded fits, uncompressed and in 16 bits
CAPTION_BYTES = 2**20


class Source(Protocol):
    """Names are "/"-separated and relative to the dataset; they are its images' identity."""

    ahead: int  # how many names are worth asking for at a time

    def names(self) -> Sequence[str]:
        """Every file, sorted. Raises DataError when the storage cannot be listed."""
        ...

    def where(self, name: str) -> str:
        """Where a human finds it."""
        ...

    def stamp(self, name: str) -> str:
        """Changes when the content may have changed. Raises OSError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Seekable. Raises OSError."""
        ...

    def read(self, name: str) -> bytes:
        """All of it. Raises OSError."""
        ...

    def caption(self, name: str) -> bytes:
        """The content of a text file beside an image. Raises OSError, also for one that lies
        elsewhere: its text would be shown and stored."""
        ...

    def contacts(self) -> Sequence[str]:
        """Hosts that will be asked for files, each with the reason; nobody was asked yet."""
        ...

    def warnings(self) -> Sequence[str]:
        """What the user should know of the files listed."""
        ...


class Folder:
    """A local folder with its sub-folders; hidden files and folders are left out, and what runs
    wrote: the folders `own`, and any other that some run has as its output_dir."""

    ahead = 1  # headers come out of the page cache: threads would only contend for the interpreter

    def __init__(self, root: Path, allowed: Sequence[Path] = (), own: Sequence[Path] = ()) -> None:
        self.root = str(root)
        self._roots = Roots(self.root, allowed)
        self._outside: list[str] = []
        self._own = own
        self.left_out: list[str] = []  # folders, once `listed` has looked

    def names(self) -> list[str]:
        return self.listed()[0]

    def listed(self) -> tuple[list[str], list[OSError]]:
        """Every file, sorted, and what was said of folders that cannot be listed."""
        found: list[str] = []
        lost: list[OSError] = []
        seen: set[tuple[int, int]] = set()
        own = {(s.st_dev, s.st_ino) for s in map(_stat, self._own) if s is not None}
        self.left_out = []
        self._outside = []
        left = [("", self.root, False)]  # folders, and whether they lie outside
        while left:
            prefix, folder, outside = left.pop()
            try:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in seen:  # a link back up
                    continue
                entries = _visible(folder)
            except OSError as e:  # no permission, or removed meanwhile with the files it had
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

    def read(self, name: str) -> bytes:
        with self.open(name) as f:
            return f.read()

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

    def contacts(self) -> list[str]:
        return []

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
    except OSError:  # not made yet, or nobody may look: then nothing is read there either
        return None


def _is_output(folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, OUTPUT_MARK))


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """Last first: they are put on a stack, and the walk is one in the order of names."""
    with os.scandir(folder) as entries:
        found = [e for e in entries if not e.name.startswith(".")]
    return sorted(found, key=lambda e: e.name, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links: opening it says so
        return False


def stamp(path: str) -> str:
    s = os.stat(path)
    # The time of change too: copying with preserved times hides an edit from mtime alone.
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"


class HubRows:
    """Rows of a Hugging Face dataset; a name is the number of its row."""

    ahead = 1

    def __init__(self, dataset: "Stored") -> None:
        self._dataset = dataset
        self._local = Path(dataset.dataset_name or "").is_dir()

    @cached_property
    def rows(self) -> Any:
        d, columns = self._dataset, self._dataset.huggingface
        try:
            import datasets
        except ImportError:
            raise DataError(
                f"dataset `{d.id}`: type=huggingface needs datasets, which is not installed",
                hint="pip install 'sd3tune[hub]'",
            ) from None
        datasets.disable_progress_bars()
        try:
            hub_files.check(d, self._roots, local=self._local)
            rows = datasets.load_dataset(
                d.dataset_name, d.dataset_config, split=d.split, revision=d.revision
            )
        except DataError:
            raise
        except Exception as e:  # builders raise whatever their files make them raise
            raise DataError(
                f"dataset `{d.id}`: `{d.dataset_name}` cannot be loaded: {e}",
                hint="check dataset_name, split and revision; private ones need HF_TOKEN",
            ) from None
        names = [columns.image_column, columns.width_column, columns.height_column]
        if getattr(d, "caption_strategy", None) == "huggingface":
            names += [*columns.caption_column, columns.fallback_caption_column]
        for name in filter(None, names):
            if name not in rows.column_names:
                raise DataError(
                    f"dataset `{d.id}`: `{d.dataset_name}` has no column `{name}`",
                    hint=f"its columns: {', '.join(rows.column_names)}",
                )
        try:
            return rows.cast_column(columns.image_column, datasets.Image(decode=False))
        except Exception as e:  # as above
            raise DataError(
                f"dataset `{d.id}`: column `{columns.image_column}` of `{d.dataset_name}` holds no "
                f"images: {e}",
                hint="set huggingface.image_column",
            ) from None

    @cached_property
    def _texts(self) -> Any:
        """The same rows without pixels."""
        return self.rows.remove_columns(self._dataset.huggingface.image_column)

    def names(self) -> list[str]:
        return [f"{i:09d}" for i in range(len(self.rows))]

    def text(self, name: str) -> dict[str, Any]:
        """The other columns of a row."""
        found: dict[str, Any] = self._texts[int(name)]
        return found

    def where(self, name: str) -> str:
        return f"{self._dataset.dataset_name}:{self._dataset.split}[{int(name)}]"

    def stamp(self, name: str) -> str:
        # A fingerprint of the whole table: one row more and every row is hashed again.
        return str(self.rows._fingerprint)

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        image = self.rows[int(name)][self._dataset.huggingface.image_column]
        if image is None:
            raise OSError("the row has no image")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        path = os.path.abspath(image["path"])  # a path that the row names
        if not self._roots.hold(path):
            raise OSError(self._roots.refusal("the path in its row"))
        with opening.opened(path, IMAGE_BYTES) as f:
            return f.read()

    @cached_property
    def _roots(self) -> Roots:
        """A folder's files lie in it, a repository's in the caches of its downloads."""
        d = self._dataset
        if self._local:
            return Roots(str(d.dataset_name), d.allowed_roots)
        import datasets
        from huggingface_hub import constants

        caches = [Path(datasets.config.HF_DATASETS_CACHE), *d.allowed_roots]
        return Roots(constants.HF_HUB_CACHE, caches)

    def caption(self, name: str) -> bytes:
        raise FileNotFoundError(f"rows have no {name}")  # settings see to it

    def contacts(self) -> list[str]:
        if self._local:
            return []
        from huggingface_hub import constants

        return [f"{urlsplit(constants.ENDPOINT).netloc} (dataset_name)"]

    def warnings(self) -> list[str]:
        return []
