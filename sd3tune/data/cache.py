"""The cache: tensors on disk, stored under the hash of everything that decides their values.

A folder holds `shards/*.safetensors` and `index.sqlite`. The shards are authoritative. Each is
written under another name, synced and renamed, so a killed process loses only the shard that it was
writing. The index records which shard holds which key. It is derived from the shards, is written
when a fill ends, and what it lacks is read from the shards' headers. Several processes may fill one
cache: the writer of a shard locks it, and the system releases the lock when the writer ends.

A changed setting or an edited caption changes the key, so a stale entry is never read. Nothing is
written beside the images.
"""

import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from sd3tune.data import cache_index, shard_bytes, shards, sqlite_files
from sd3tune.data.buckets import Geometry, Size
from sd3tune.data.cache_index import TABLES, EntryLocation
from sd3tune.data.shards import CHANGED, UNREADABLE, Damage, Entry, Shard
from sd3tune.errors import DataError
from sd3tune.filesystem import cachedir, disk, drafts

if TYPE_CHECKING:
    from torch import Tensor

    from sd3tune.data.cache_bucket import CacheBucket
    from sd3tune.data.safetensors_writer import Buffer

Signature = tuple[int, int, int]  # inode, bytes, time of modification

VERSION = 3  # of the meaning of an entry; a higher number makes every key new
INDEX, SHARDS = "index.sqlite", cachedir.SHARDS
OPEN_SHARDS = 32  # files that a reader keeps open
REPAIR = "`sd3tune cache verify --repair` removes it; the next run encodes it again"


def latent_key(size: Size, geometry: Geometry, digest: bytes, vae: str) -> str:
    """Key of an image's latents. size: of the image; digest: hash of its file; vae: identity and
    dtype of the VAE."""
    return _hash("latent", digest.hex(), json.dumps([size, astuple(geometry)]), vae)


def mask_key(size: Size, geometry: Geometry, digest: bytes, kind: str) -> str:
    """Key of a mask. size: of the image; digest: hash of the mask's file; kind:
    conditioning_type."""
    return _hash("mask", digest.hex(), json.dumps([size, astuple(geometry)]), kind)


def text_key(caption: str, encoders: str) -> str:
    """Key of a caption. encoders: identity, dtype, token length and padding of the text
    encoders."""
    return _hash("text", caption, encoders)


class TensorCache:
    """A cache folder. Several threads and processes may use it at the same time."""

    def __init__(self, folder: Path, bucket: "CacheBucket | None" = None) -> None:
        """bucket: where the shards are stored too."""
        self.folder, self.bucket = folder, bucket
        self._shards = folder / SHARDS
        self._places: dict[str, EntryLocation] | None = None
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._checked: dict[
            str, tuple[Signature, set[str]]
        ] = {}  # by shard: entries that are right
        self._broken: list[Path] = []  # incomplete or damaged shards
        self._lock = threading.Lock()  # loader threads share the open files

    @property
    def places(self) -> dict[str, EntryLocation]:
        """Key -> place, for every entry of the cache."""
        if self._places is None:
            self._places = self._read_places()
        return self._places

    def has(self, key: str) -> bool:
        """Whether the key has an entry or a recorded problem."""
        return key in self.places

    def problem(self, key: str) -> str | None:
        """The reason why the input of this key could not be encoded; None if there is no such
        record."""
        place = self.places.get(key)
        return place.problem if place else None

    def get(self, key: str) -> "dict[str, Tensor]":
        """The tensors of an entry. Raises DataError for a missing, damaged or non-finite entry: its
        bytes are compared with their checksum, because a flipped bit would be trained on. That is
        done when this process first reads the entry, and again when the file has changed."""
        place = self.places.get(key)
        if place is None or place.problem:
            raise DataError(
                f"the cache `{self.folder}` has no entry {key[:12]}…",
                hint="run again without skip_file_discovery: what is missing is encoded",
            )
        try:
            shard, checked = self._opened(place.shard)
            entry = shard.entry(key)
        except (OSError, SafetensorError, ValueError) as e:
            raise DataError(
                f"cache file `{self._shards / place.shard}` cannot be read: {e}", hint=REPAIR
            ) from None
        if key not in checked:
            self._check(place.shard, entry, shard.about.digests.get(key))
            checked.add(key)
        return entry

    def _check(self, name: str, entry: Entry, digest: str | None) -> None:
        if shards.digest(entry) != digest:
            raise DataError(f"cache file `{self._shards / name}`: {CHANGED}", hint=REPAIR)
        if not shards.is_finite(entry):
            raise DataError(
                f"cache file `{self._shards / name}` holds NaN or infinity",
                hint="set vae_dtype=fp32; `sd3tune cache verify --repair` removes the file",
            )

    @contextmanager
    def claim(self, keys: Sequence[str]) -> Iterator["Draft | None"]:
        """A draft of the shard of these keys, locked for this process. None if another process has
        locked it, or if the shard exists. Without a call of `Draft.write` nothing is written.
        Raises DataError."""
        name = shard_name(keys)
        final = self._shards / f"{name}.safetensors"
        draft = final.with_suffix(".draft")
        try:
            self._refuse_strangers()
            self._shards.mkdir(parents=True, exist_ok=True)
            cachedir.mark(self.folder)
            with drafts.drafted(draft, final) as descriptor:
                yield None if descriptor is None else Draft(self, draft, final, descriptor)
        except OSError as e:
            raise unwritable(self.folder, e) from None

    def exchange(self, wanted: Set[str]) -> None:
        """Fetches what the bucket has of these keys and this folder lacks, and stores there what an
        interrupted run could not. Raises DataError."""
        if self.bucket is None:
            return
        missing = wanted - self.places.keys()
        try:
            if missing:
                self.bucket.fetch(self._shards, missing)
        except OSError as e:
            raise unwritable(self.folder, e) from None
        self.refresh()
        held = {place.shard for key, place in self.places.items() if key in wanted}
        self.bucket.store(self._shards / name for name in sorted(held))

    def refresh(self) -> None:
        """Reads the index and the shards again: another process may have written."""
        self._places = None

    def look_again(self, keys: Sequence[str]) -> None:
        """Reads the shard of these keys, if the index does not list them. A shard whose content
        does not match its name is removed, because its keys could otherwise never be written.
        Raises DataError if sd3tune did not write that file."""
        path, why = self._shards / f"{shard_name(keys)}.safetensors", "sd3tune did not write it"
        entries: list[str] = []
        problems: dict[str, str] = {}
        try:
            entries, problems = shards.contents(path)
        except FileNotFoundError:  # its writer has not finished
            return
        except shards.Foreign as e:
            why = str(e)
        except UNREADABLE:
            pass
        if path.name in cache_index.read(self.folder / INDEX)[0]:  # the index is wrong
            (self.folder / INDEX).unlink(missing_ok=True)
        if set(keys) <= {*entries, *problems}:
            self.places.update({key: EntryLocation(path.name, problems.get(key)) for key in keys})
        elif not self._remove(path):
            raise DataError(
                f"`{path}` has the name of a cache file, but {why}",
                hint="move it away, or set cache_dir and cache_dir_vae to another folder",
            )

    def finish(self) -> None:
        """Writes the index and removes the drafts of killed writers. Raises DataError."""
        if self._settled() or not self.is_ours():
            return
        for draft in self._drafts():
            drafts.clear(draft)
        try:
            with sqlite_files.database(self.folder / INDEX) as db:
                self.refresh()  # while locked, so that the last writer lists every shard
                cache_index.write(db, self.places, self.shard_paths())
        except (OSError, sqlite3.Error) as e:
            raise unwritable(self.folder, e) from None

    def _settled(self) -> bool:
        """Whether the index lists every shard and no draft is left."""
        if self._drafts() or (self.folder / INDEX).with_suffix(".draft").exists():
            return False
        listed, _ = cache_index.read(self.folder / INDEX)
        return listed == {path.name: path.stat().st_size for path in self.shard_paths()}

    def _drafts(self) -> list[Path]:
        return [p for p in self._shards.glob("*.draft") if shards.DRAFT.fullmatch(p.name)]

    def is_ours(self) -> bool:
        """Whether sd3tune created this folder: it has the mark, or (for caches older than the mark)
        an index or a shard of sd3tune."""
        return (
            cachedir.is_marked(self.folder)
            or sqlite_files.is_ours(self.folder / INDEX, TABLES)
            or any(map(shards.is_readable, self.shard_paths()))
        )

    def _refuse_strangers(self) -> None:
        """Raises DataError if another program's file has the name of the index, because `finish`
        would overwrite it."""
        index = self.folder / INDEX
        if os.path.lexists(index) and not self.is_ours():
            raise DataError(
                f"`{index}` is not a file of sd3tune",
                hint="move it away, or set cache_dir and cache_dir_vae to another folder",
            )

    def shard_paths(self) -> list[Path]:
        """All files with the name of a shard."""
        return shards.paths(self._shards)

    def size_bytes(self) -> int:
        """Size of all shards."""
        return sum(path.stat().st_size for path in self.shard_paths())

    def verify(self) -> list[Damage]:
        """Reads every shard completely and returns those that do not match their checksums. Index
        rows without a shard are ignored, and so are files of other programs."""
        ours, found = self.is_ours(), []
        for path in self.shard_paths():
            damage = shard_bytes.damage(path)
            if damage is not None and shards.is_ours(path, ours):
                found.append(damage)
        return found

    def remove(self, paths: Sequence[Path]) -> None:
        """Removes these shards; files of other programs stay. Raises DataError."""
        for path in paths:
            self._remove(path)
        self._open.clear()
        self.finish()

    def _remove(self, path: Path) -> bool:
        """Removes one shard; every removal goes through here. False if sd3tune did not write it."""
        if not os.path.lexists(path):
            return True
        if not shards.is_ours(path, self.is_ours()):
            return False
        path.unlink(missing_ok=True)
        return True

    def prune(self, wanted: set[str]) -> int:
        """Removes every entry whose key is not in `wanted`; returns their number. A shard with both
        kinds is written again with the wanted entries that match their checksums."""
        unwanted = 0
        self.mend()
        for path in self.shard_paths():
            try:
                entries, problems = shards.contents(path)
                lost = [k for k in [*entries, *problems] if k not in wanted]
                copy = shard_bytes.copied(path, wanted) if lost else None
            except UNREADABLE:  # a file of another program
                continue
            if copy is None:
                continue
            unwanted += len(lost)
            known = {k: why for k, why in problems.items() if k in wanted}
            if copy.keys or known:
                with self.claim([*copy.keys, *known]) as draft:
                    if draft is not None:
                        draft.write_bytes([copy.data], copy.keys, known)
            self._remove(path)
        self._open.clear()
        self.finish()
        return unwanted

    def mend(self) -> int:
        """Removes incomplete and damaged shards, so that they are written again; returns their
        number."""
        self._places = self._read_places()
        removed = [path for path in self._broken if self._remove(path)]
        self._broken.clear()
        return len(removed)

    def _read_places(self) -> dict[str, EntryLocation]:
        sizes = {path.name: path.stat().st_size for path in self.shard_paths()}
        listed, found = cache_index.read(self.folder / INDEX)
        sound = {name for name, size in listed.items() if sizes.get(name) == size}
        found = {key: place for key, place in found.items() if place.shard in sound}
        self._broken = []
        for name in sorted(sizes.keys() - sound):
            try:
                entries, problems = shards.contents(self._shards / name)
            except UNREADABLE:  # incomplete, or of another program: treated as absent
                self._broken.append(self._shards / name)
                continue
            for key in entries:
                found.setdefault(key, EntryLocation(name))
            for key, why in problems.items():
                found.setdefault(key, EntryLocation(name, why))
        return found

    def _opened(self, name: str) -> tuple[Shard, set[str]]:
        """A shard, and those of its entries that were compared with their checksums."""
        with self._lock:
            shard = self._open.get(name)
            if shard is None:
                shard = self._open[name] = shards.opened(self._shards / name)
                signature = _signature(self._shards / name)
                if self._checked.get(name, (None,))[0] != signature:
                    self._checked[name] = signature, set()
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(name)
            return shard, self._checked[name][1]


@dataclass(frozen=True)
class Draft:
    """A shard that this process has locked for writing."""

    cache: TensorCache
    draft: Path
    final: Path
    descriptor: int

    def write(self, entries: Mapping[str, Entry], problems: Mapping[str, str]) -> None:
        """Writes the shard atomically. problems: key -> reason why it has no entry. Raises
        OSError."""
        from sd3tune.data import safetensors_writer  # with torch, which reading an index needs not

        tensors, about = shards.stored(entries, problems)
        self.write_bytes(safetensors_writer.contents(tensors, about), entries, problems)

    def write_bytes(
        self, pieces: Iterable["Buffer"], keys: Iterable[str], problems: Mapping[str, str]
    ) -> None:
        """The same for a shard that is serialised already. keys: of its entries."""
        drafts.fill(self.descriptor, *pieces)
        drafts.finish(self.draft, self.final, self.descriptor)
        if self.cache.bucket is not None:
            self.cache.bucket.store([self.final])
        for key in keys:
            self.cache.places[key] = EntryLocation(self.final.name)
        for key, why in problems.items():
            self.cache.places[key] = EntryLocation(self.final.name, why)


def unwritable(folder: Path, error: Exception) -> DataError:
    """The error to raise when a cache folder cannot be written."""
    why, remedy = disk.reason(error)
    hint = f"{remedy}; cache_dir and cache_dir_vae set the folders"
    return DataError(f"cannot write the cache `{folder}`: {why}", hint=hint)


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def shard_name(keys: Sequence[str]) -> str:
    """The name of the shard with these keys, whatever their order."""
    return _hash("shard", *sorted(keys))


def _hash(*parts: str) -> str:
    return blake2b(json.dumps([VERSION, *parts]).encode(), digest_size=20).hexdigest()
