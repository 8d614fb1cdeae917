"""Tensors on disk under the hash of everything that decides them, many to a file.

A folder holds `shards/*.safetensors` and `index.sqlite`. The shards are the truth: each is written
under another name, synced and renamed, so that a process killed at any moment loses the one in
flight. The index only says which shard holds which key; it is derived, written whole when a fill
ends, and whatever it misses is read from the shards' own headers. Two processes may fill one cache:
a shard being written is locked by its writer, and a dead writer's lock is gone with it.

A changed setting or an edited caption changes the key, so nothing stale can be read and nothing
needs invalidating. Nothing is ever written beside the images.
"""

import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sd3tune.data import shards, sqlite_files
from sd3tune.data.buckets import Geometry, Size
from sd3tune.data.shards import CHANGED, UNREADABLE, Damage, Entry
from sd3tune.errors import DataError
from sd3tune.filesystem import cachedir, disk, drafts

VERSION = 3  # of what an entry means; raise it and everything is computed again
INDEX, SHARDS = "index.sqlite", "shards"
OPEN_SHARDS = 32  # files kept open by a reader
REPAIR = "`sd3tune cache verify --repair` removes it; the next run makes it anew"
SHARDS_TABLE = "create table shards (name text primary key, bytes integer) without rowid"
ENTRIES_TABLE = """
create table entries (key text primary key, shard text, problem text) without rowid
"""
TABLES = (SHARDS_TABLE, ENTRIES_TABLE)


def latent_key(size: Size, geometry: Geometry, digest: bytes, vae: str) -> str:
    """size: what the image is taken to be; digest: of its file's bytes; vae: identity and dtype of
    the autoencoder."""
    return _hash("latent", digest.hex(), json.dumps([size, astuple(geometry)]), vae)


def mask_key(size: Size, geometry: Geometry, digest: bytes, kind: str) -> str:
    """size: of the mask's image; digest: of the mask file's bytes; kind: how colours are read."""
    return _hash("mask", digest.hex(), json.dumps([size, astuple(geometry)]), kind)


def text_key(caption: str, encoders: str) -> str:
    """encoders: identity, dtype, token length and padding of the text encoders."""
    return _hash("text", caption, encoders)


@dataclass(frozen=True)
class EntryLocation:
    """Where an entry is, or why there is none: an input that cannot be encoded is remembered under
    its content too."""

    shard: str
    problem: str | None = None


class TensorCache:
    """A folder of shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = folder / SHARDS
        self._places: dict[str, EntryLocation] | None = None
        self._open: OrderedDict[str, tuple[Any, dict[str, str]]] = OrderedDict()
        self._broken: list[Path] = []  # shards that are not whole
        self._lock = threading.Lock()  # loader threads share the open files

    @property
    def places(self) -> dict[str, EntryLocation]:
        """Key to place, for everything there is."""
        if self._places is None:
            self._places = self._read_places()
        return self._places

    def has(self, key: str) -> bool:
        return key in self.places

    def problem(self, key: str) -> str | None:
        place = self.places.get(key)
        return place.problem if place else None

    def get(self, key: str) -> dict[str, Tensor]:
        """Raises DataError for a missing, damaged or non-finite entry: every byte is compared with
        its checksum, since a flipped bit would be trained on like any other."""
        place = self.places.get(key)
        if place is None or place.problem:
            raise DataError(
                f"the cache `{self.folder}` has no entry {key[:12]}…",
                hint="run again without skip_file_discovery: what is missing is encoded",
            )
        try:
            entry, digest = self._read(place.shard, key)
        except (OSError, SafetensorError, ValueError) as e:
            raise DataError(
                f"cache file `{self._shards / place.shard}` cannot be read: {e}", hint=REPAIR
            ) from None
        if shards.digest(entry) != digest:
            raise DataError(f"cache file `{self._shards / place.shard}`: {CHANGED}", hint=REPAIR)
        if not all(torch.isfinite(t).all() for t in entry.values() if t.is_floating_point()):
            raise DataError(
                f"cache file `{self._shards / place.shard}` holds NaN or infinity",
                hint="set vae_dtype=fp32; `sd3tune cache verify --repair` removes the file",
            )
        return entry

    @contextmanager
    def claim(self, keys: Sequence[str]) -> Iterator["Draft | None"]:
        """The right to write the shard of these keys; None while another process has it, or when it
        is there already. Left without `Draft.write`, nothing is written. Raises DataError."""
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

    def refresh(self) -> None:
        """Looks again: another process may have written."""
        self._places = None

    def look_again(self, keys: Sequence[str]) -> None:
        """Asks the shard of these keys itself, when the index does not know them. One that holds
        something else than its name says is removed: its keys could never be written. Raises
        DataError when it is not sd3tune's to remove."""
        path = self._shards / f"{shard_name(keys)}.safetensors"
        try:
            entries, problems = shards.contents(path)
        except FileNotFoundError:  # its writer is not done
            return
        except UNREADABLE:
            entries, problems = [], {}
        if path.name in _read_index(self.folder / INDEX)[0]:  # and is wrong about it
            (self.folder / INDEX).unlink(missing_ok=True)
        if set(keys) <= {*entries, *problems}:
            self.places.update({key: EntryLocation(path.name, problems.get(key)) for key in keys})
        elif not self._remove(path):
            raise DataError(
                f"`{path}` has the name of a cache file, and sd3tune did not write it",
                hint="move it away, or set cache_dir and cache_dir_vae to another folder",
            )

    def finish(self) -> None:
        """Writes the index and clears away what dead writers left."""
        if self._settled() or not self.is_ours():
            return
        for draft in self._drafts():
            drafts.clear(draft)
        try:
            with sqlite_files.database(self.folder / INDEX) as db:
                self.refresh()  # inside: the last writer has seen everything
                _write_index(db, self.places, self.shard_paths())
        except (OSError, sqlite3.Error) as e:
            raise unwritable(self.folder, e) from None

    def _settled(self) -> bool:
        """Whether the index lists every shard, and nothing is left over."""
        if self._drafts() or (self.folder / INDEX).with_suffix(".draft").exists():
            return False
        listed, _ = _read_index(self.folder / INDEX)
        return listed == {path.name: path.stat().st_size for path in self.shard_paths()}

    def _drafts(self) -> list[Path]:
        return [p for p in self._shards.glob("*.draft") if shards.DRAFT.fullmatch(p.name)]

    def is_ours(self) -> bool:
        """Whether sd3tune made this folder: it carries the mark, or, made before there was one, an
        index or a shard of ours."""
        return (
            cachedir.is_marked(self.folder)
            or sqlite_files.is_ours(self.folder / INDEX, TABLES)
            or any(map(shards.is_readable, self.shard_paths()))
        )

    def _refuse_strangers(self) -> None:
        """Raises DataError for a folder that is not ours, where another program has a file of the
        index's name: `finish` would write over it."""
        index = self.folder / INDEX
        if os.path.lexists(index) and not self.is_ours():
            raise DataError(
                f"`{index}` is not a file of sd3tune",
                hint="move it away, or set cache_dir and cache_dir_vae to another folder",
            )

    def shard_paths(self) -> list[Path]:
        return shards.paths(self._shards)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.shard_paths())

    def verify(self) -> list[Damage]:
        """Reads every byte; what does not match its checksum is damaged. Index rows without a shard
        do not count: they are dropped when the index is read. Nor do files of other programs."""
        ours, found = self.is_ours(), []
        for path in self.shard_paths():
            damage = shards.damage(path)
            if damage is not None and shards.is_ours(path, ours):
                found.append(damage)
        return found

    def remove(self, paths: Sequence[Path]) -> None:
        """Files of other programs stay."""
        for path in paths:
            self._remove(path)
        self._open.clear()
        self.finish()

    def _remove(self, path: Path) -> bool:
        """The one place where shards are removed; False: sd3tune did not write it."""
        if not os.path.lexists(path):
            return True
        if not shards.is_ours(path, self.is_ours()):
            return False
        path.unlink(missing_ok=True)
        return True

    def prune(self, wanted: set[str]) -> int:
        """Removes every entry whose key is not wanted; how many there were. Shards that hold both
        kinds are written again with the wanted ones, as far as these have their checksum."""
        unwanted = 0
        self.mend()
        for path in self.shard_paths():
            try:
                entries, problems = shards.contents(path)
                lost = [k for k in [*entries, *problems] if k not in wanted]
                kept = shards.whole(path, wanted) if lost else {}
            except UNREADABLE:  # a file of another program
                continue
            if not lost:
                continue
            unwanted += len(lost)
            known = {k: why for k, why in problems.items() if k in wanted}
            if kept or known:
                with self.claim([*kept, *known]) as draft:
                    if draft is not None:
                        draft.write(kept, known)
            self._remove(path)
        self._open.clear()
        self.finish()
        return unwanted

    def mend(self) -> int:
        """Removes shards that are not whole, so that they are made again; how many."""
        self._places = self._read_places()
        removed = [path for path in self._broken if self._remove(path)]
        self._broken.clear()
        return len(removed)

    def _read_places(self) -> dict[str, EntryLocation]:
        sizes = {path.name: path.stat().st_size for path in self.shard_paths()}
        listed, found = _read_index(self.folder / INDEX)
        sound = {name for name, size in listed.items() if sizes.get(name) == size}
        found = {key: place for key, place in found.items() if place.shard in sound}
        self._broken = []
        for name in sorted(sizes.keys() - sound):
            try:
                entries, problems = shards.contents(self._shards / name)
            except UNREADABLE:  # not whole, or not ours: as if it were not there
                self._broken.append(self._shards / name)
                continue
            for key in entries:
                found.setdefault(key, EntryLocation(name))
            for key, why in problems.items():
                found.setdefault(key, EntryLocation(name, why))
        return found

    def _read(self, shard: str, key: str) -> tuple[dict[str, Tensor], str | None]:
        """An entry, and the checksum it was written with."""
        with self._lock:
            opened = self._open.get(shard)
            if opened is None:
                file, about = shards.opened(self._shards / shard)
                opened = self._open[shard] = file, dict(about.digests)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(shard)
        file, digests = opened
        return shards.entry(file, key), digests.get(key)


@dataclass(frozen=True)
class Draft:
    """A shard that this process may write."""

    cache: TensorCache
    draft: Path
    final: Path
    descriptor: int

    def write(self, entries: Mapping[str, Entry], problems: Mapping[str, str]) -> None:
        """Atomic: a reader sees nothing or the whole shard. problems: why a key has no entry.
        Raises OSError when the disk does not take it."""
        drafts.fill(self.descriptor, shards.serialised(entries, problems))
        drafts.finish(self.draft, self.final, self.descriptor)
        for key in entries:
            self.cache.places[key] = EntryLocation(self.final.name)
        for key, why in problems.items():
            self.cache.places[key] = EntryLocation(self.final.name, why)


def unwritable(folder: Path, error: Exception) -> DataError:
    why, remedy = disk.reason(error)
    hint = f"{remedy}; cache_dir and cache_dir_vae set the folders"
    return DataError(f"cannot write the cache `{folder}`: {why}", hint=hint)


def shard_name(keys: Sequence[str]) -> str:
    return _hash("shard", *sorted(keys))


def _write_index(
    db: sqlite3.Connection, places: Mapping[str, EntryLocation], shards: Sequence[Path]
) -> None:
    db.execute(SHARDS_TABLE)
    db.execute(ENTRIES_TABLE)
    used = {place.shard for place in places.values()}
    sizes = ((s.name, s.stat().st_size) for s in shards if s.name in used)
    db.executemany("insert into shards values (?, ?)", sizes)
    entries = ((k, p.shard, p.problem) for k, p in sorted(places.items(), key=lambda i: i[0]))
    db.executemany("insert into entries values (?, ?, ?)", entries)


def _read_index(path: Path) -> tuple[dict[str, int], dict[str, EntryLocation]]:
    """Sizes of the shards it lists, and places. Rows that no cache writes count as absent: the name
    of a shard could lead out of the folder."""
    listed: Any = sqlite_files.rows(path, TABLES, "select name, bytes from shards")
    sizes = {name: size for name, size in listed
             if isinstance(name, str) and shards.NAME.fullmatch(name)}  # fmt: skip
    names = {name: name for name in sizes}  # one string per shard instead of one per entry
    entries: Any = sqlite_files.rows(path, TABLES, "select key, shard, problem from entries")
    return sizes, {
        key: EntryLocation(names[shard], problem)
        for key, shard, problem in entries
        if isinstance(key, str) and shard in names and isinstance(problem, str | None)
    }


def _hash(*parts: str) -> str:
    return blake2b(json.dumps([VERSION, *parts]).encode(), digest_size=20).hexdigest()
