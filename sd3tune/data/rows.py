"""Files named by the rows of a .csv: paths inside the dataset, or http(s) addresses fetched once.

A table comes from somebody else: its paths are read only inside the dataset and its allowed_roots,
and what it has fetched is kept only when it opens as an image. A failure is kept nowhere: the next
run asks again.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from sd3tune.data import image_tables
from sd3tune.data.folder import Folder, stamp
from sd3tune.data.headers import SUFFIXES, NoMemory, Unusable, size_of, suffix_of
from sd3tune.data.roots import Roots
from sd3tune.data.sources import IMAGE_BYTES, Source, Tell
from sd3tune.data.table_names import matched, shown_name
from sd3tune.filesystem import drafts, opening
from sd3tune.urls import is_url, shown_url

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Stored

DRAFT = re.compile(r"[0-9a-f]{64}" + re.escape(drafts.SUFFIX))
MOST_HOSTS = 50  # hosts that are named one by one


def open_source(dataset: "Stored", tell: Tell, own: Sequence[Path]) -> Source:
    """type=csv. Reads the table. Raises DataError."""
    assert dataset.csv is not None  # settings see to it
    names = image_tables.read(dataset.csv, f"dataset `{dataset.id}`").rows
    return Rows(dataset, list(names), dataset.fetched_dir, tell)


class Rows(Source):
    """tell: is called with each host that a redirect names, before it is contacted."""

    has_files = False

    def __init__(self, dataset: "Stored", names: Sequence[str], keep: Path, tell: Tell) -> None:
        assert dataset.csv is not None
        self.ahead = dataset.read_batch_size
        self._dataset, self._tell = dataset, tell
        self._names = sorted(names)
        self._shown = _shown(self._names)
        self._root = str(dataset.instance_data_dir or dataset.csv.path.parent)
        self._roots = Roots(self._root, dataset.allowed_roots)
        self._keep = keep
        self._failed: dict[str, str] = {}  # name -> reason; for this process only
        self._told: set[str] = set()
        self._cleared = False
        self._lost: dict[str, str | None] = {}  # rows without a file -> the file they may mean

    def names(self) -> list[str]:
        return self._names

    def where(self, name: str) -> str:
        if is_url(name) or name.startswith("//"):
            return self._shown.get(name) or shown_url(name)
        return os.path.join(self._root, name)

    def stamp(self, name: str) -> str:
        return stamp(self._path(name))

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        if remote(name) and not _is_image(path):  # kept by an older version, which did not check
            Path(path).unlink(missing_ok=True)
            path = self._path(name)
        return opening.opened(path, IMAGE_BYTES)

    def contacts(self) -> list[str]:
        from sd3tune.data.request_urls import Failed, host_of

        hosts: Counter[str] = Counter()
        for name in filter(remote, self._names):
            try:
                hosts[host_of(name)] += 1
            except Failed:  # it is set aside with the reason later
                continue
        why = f"({self._dataset.csv.filename_column} of the table)" if self._dataset.csv else ""
        named = [f"{host} {why}" for host, _ in hosts.most_common(MOST_HOSTS)]
        more = len(hosts) - len(named)
        return [*named, f"{more} more hosts {why}"] if more > 0 else named

    def _path(self, name: str) -> str:
        """The path of the file on this disk, after downloading it if necessary. Raises OSError."""
        if "\0" in name:
            raise OSError("its name cannot be a path")
        if remote(name):
            return self._fetched(name)
        if is_url(name):
            raise OSError("its address is not an http or https address")
        path = os.path.join(self._root, name)
        if not os.path.exists(path):
            self._lost[name] = self._renamed.get(name)
            path = os.path.join(self._root, self._lost[name] or name)
        if not self._roots.hold(path):
            raise OSError(self._roots.refusal("its path"))
        return path

    @cached_property
    def _files(self) -> list[str]:
        """The images in the dataset's folder that no row names exactly."""
        named = {name.removeprefix("./") for name in self._names}
        files = Folder(Path(self._root), self._dataset.allowed_roots).names()
        return [f for f in files if suffix_of(f) in SUFFIXES and f not in named]

    @cached_property
    def _renamed(self) -> dict[str, str]:
        """Row -> file, for rows that name a file in another way (data/table_names.py)."""
        rows = (n for n in self._names if "\0" not in n and not is_url(n))
        lost = [n for n in rows if not os.path.exists(os.path.join(self._root, n))]
        pairs = matched(lost, self._files).rows
        return {row: file for file, found in pairs.items() for row in found[:1]}

    def notes(self) -> list[str]:
        """What was found under another name, and what was not found."""
        found = []
        taken = {row: file for row, file in sorted(self._lost.items()) if file is not None}
        if taken:
            row, file = next(iter(taken.items()))
            found.append(
                f"the table names files in another way: `{shown_name(row)}` is taken for `{file}` "
                f"({len(taken)} in all)"
            )
        lost = sorted(self._lost.keys() - taken.keys())
        left = sorted(set(self._files) - set(taken.values())) if lost else []
        if lost and left:
            found.append(
                f"{len(lost)} rows name no file in `{self._root}`, such as "
                f"`{shown_name(lost[0])}`; {len(left)} images there have no row, such as "
                f"`{left[0]}`"
            )
        return found

    def _fetched(self, name: str) -> str:
        path = self._keep / sha256(name.encode()).hexdigest()
        if path.exists():
            return str(path)
        if name in self._failed:
            raise OSError(self._failed[name])
        try:
            self._fetch(name, path)
        except OSError as e:
            self._failed[name] = f"cannot be fetched: {e.strerror or e}"
            raise OSError(self._failed[name]) from None
        return str(path)

    def _fetch(self, name: str, path: Path) -> None:
        from sd3tune.data.download import DownloadLimits, fetch

        d = self._dataset
        limits = DownloadLimits(
            d.max_download_mib * 2**20, d.max_download_seconds, d.allow_private_hosts
        )
        self._keep.mkdir(parents=True, exist_ok=True)
        self._clear_once()
        draft = path.with_suffix(drafts.SUFFIX)
        with drafts.drafted(draft, path, wait=True) as descriptor:
            if descriptor is None:  # another process has fetched it meanwhile
                return
            try:
                with os.fdopen(os.dup(descriptor), "w+b") as file:
                    fetch(name, file, limits, self._told_once)
                    file.seek(0)
                    size_of(file, urlsplit(name).path)
                drafts.finish(draft, path, descriptor)
            except Unusable as e:
                raise OSError(f"the download is not an image: {e}") from None
            finally:
                draft.unlink(missing_ok=True)

    def _clear_once(self) -> None:
        """Removes drafts of processes that were killed."""
        if not self._cleared:
            self._cleared = True
            for draft in self._keep.glob("*" + drafts.SUFFIX):
                if DRAFT.fullmatch(draft.name):
                    drafts.clear(draft)

    def _told_once(self, host: str) -> None:
        if host not in self._told:
            self._told.add(host)
            self._tell(host)


def remote(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _is_image(path: str) -> bool:
    try:
        with opening.opened(path, IMAGE_BYTES) as f:
            size_of(f, "")
    except NoMemory:
        return True
    except (OSError, Unusable):
        return False
    return True


def _shown(names: Sequence[str]) -> dict[str, str]:
    """Addresses that are safe to print; those that differ only in their query get a number."""
    count: Counter[str] = Counter()
    found = {}
    for name in filter(is_url, names):
        text = shown_url(name)
        count[text] += 1
        found[name] = f"{text} ({count[text]})" if count[text] > 1 else text
    return found
