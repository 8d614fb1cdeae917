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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sd3tune import disk
from sd3tune.data import atomic
from sd3tune.data.buckets import Geometry, Size
from sd3tune.errors import DataError

VERSION = 3  # of what an entry means; raise it and everything is computed again
INDEX, SHARDS = "index.sqlite", "shards"
OPEN_SHARDS = 32  # files kept open by a reader
CHANGED = "its bytes are not those that were written"
REPAIR = "`sd3tune cache verify --repair` removes it; the next run makes it anew"
ABOUT = "sd3tune"  # the one metadata key: safetensors writes several in any order
SHARDS_TABLE = "create table shards (name text primary key, bytes integer) without rowid"
ENTRIES_TABLE = """
create table entries (key text primary key, shard text, problem text) without rowid
"""

Entry = Mapping[str, Tensor]


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
class Place:
    """Where an entry is, or why there is none: an input that cannot be encoded is remembered under
    its content too."""

    shard: str
    problem: str | None = None


@dataclass(frozen=True)
class Damage:
    """What `verify` found."""

    path: Path
    reason: str
    entries: int


class TensorCache:
    """A folder of shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = folder / SHARDS
        self._places: dict[str, Place] | None = None
        self._open: OrderedDict[str, tuple[Any, dict[str, str]]] = OrderedDict()
        self._broken: set[str] = set()  # shards that are not whole
        self._lock = threading.Lock()  # loader threads share the open files

    @property
    def places(self) -> dict[str, Place]:
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
        if _digest(entry) != digest:
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
            self._shards.mkdir(parents=True, exist_ok=True)
            with atomic.drafted(draft, final) as descriptor:
                yield None if descriptor is None else Draft(self, draft, final, descriptor)
        except OSError as e:
            raise unwritable(self.folder, e) from None

    def refresh(self) -> None:
        """Looks again: another process may have written."""
        self._places = None

    def look_again(self, keys: Sequence[str]) -> None:
        """Asks the shard of these keys itself, when the index does not know them. One that holds
        something else than its name says is removed: its keys could never be written."""
        path = self._shards / f"{shard_name(keys)}.safetensors"
        try:
            entries, problems = _contents(path)
        except OSError:
            return
        except (SafetensorError, ValueError):
            entries, problems = [], {}
        if path.name in _read_index(self.folder / INDEX)[0]:  # and is wrong about it
            (self.folder / INDEX).unlink(missing_ok=True)
        if set(keys) <= {*entries, *problems}:
            self.places.update({key: Place(path.name, problems.get(key)) for key in keys})
        else:
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Writes the index and clears away what dead writers left."""
        if self._settled():
            return
        for draft in self._shards.glob("*.draft"):
            atomic.clear(draft)
        try:
            with atomic.database(self.folder / INDEX) as db:
                self.refresh()  # inside: the last writer has seen everything
                _write_index(db, self.places, self.shard_paths())
        except (OSError, sqlite3.Error) as e:
            raise unwritable(self.folder, e) from None

    def _settled(self) -> bool:
        """Whether the index lists every shard, and nothing is left over."""
        if any(self._shards.glob("*.draft")) or any(self.folder.glob("*.draft")):
            return False
        listed, _ = _read_index(self.folder / INDEX)
        return listed == {path.name: path.stat().st_size for path in self.shard_paths()}

    def shard_paths(self) -> list[Path]:
        return sorted(self._shards.glob("*.safetensors"))

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.shard_paths())

    def verify(self) -> list[Damage]:
        """Reads every byte; what does not match its checksum is damaged. Index rows without a shard
        do not count: they are dropped when the index is read."""
        return [d for path in self.shard_paths() if (d := _damage(path)) is not None]

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        self._open.clear()
        self.finish()

    def prune(self, wanted: set[str]) -> int:
        """Removes every entry whose key is not wanted; how many there were. Shards that hold both
        kinds are written again with the wanted ones."""
        unwanted = 0
        self.mend()
        for path in self.shard_paths():
            entries, problems = _contents(path)
            lost = [k for k in [*entries, *problems] if k not in wanted]
            if not lost:
                continue
            unwanted += len(lost)
            kept = {k: self._load(path, k) for k in entries if k in wanted}
            known = {k: why for k, why in problems.items() if k in wanted}
            if kept or known:
                with self.claim([*kept, *known]) as draft:
                    if draft is not None:
                        draft.write(kept, known)
            path.unlink()
        self._open.clear()
        self.finish()
        return unwanted

    def mend(self) -> int:
        """Removes shards that are not whole, so that they are made again; how many."""
        self.refresh()
        broken = [self._shards / name for name in sorted(self._broken_now())]
        for path in broken:
            path.unlink(missing_ok=True)
        self._broken.clear()
        return len(broken)

    def _broken_now(self) -> set[str]:
        self._places = self._read_places()
        return set(self._broken)

    def _read_places(self) -> dict[str, Place]:
        sizes = {path.name: path.stat().st_size for path in self.shard_paths()}
        listed, found = _read_index(self.folder / INDEX)
        sound = {name for name, size in listed.items() if sizes.get(name) == size}
        found = {key: place for key, place in found.items() if place.shard in sound}
        self._broken = set()
        for name in sorted(sizes.keys() - sound):
            try:
                entries, problems = _contents(self._shards / name)
            except (OSError, SafetensorError, ValueError):  # not whole: as if it were not there
                self._broken.add(name)
                continue
            for key in entries:
                found.setdefault(key, Place(name))
            for key, why in problems.items():
                found.setdefault(key, Place(name, why))
        return found

    def _read(self, shard: str, key: str) -> tuple[dict[str, Tensor], str | None]:
        """An entry, and the checksum it was written with."""
        with self._lock:
            opened = self._open.get(shard)
            if opened is None:
                file = safe_open(str(self._shards / shard), framework="pt")
                opened = self._open[shard] = file, _about(file).get("digests", {})
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(shard)
        file, digests = opened
        return _entry(file, key), digests.get(key)

    def _load(self, path: Path, key: str) -> dict[str, Tensor]:
        with safe_open(str(path), framework="pt") as file:
            return _entry(file, key)


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
        tensors = {
            f"{key}.{name}": tensor.contiguous()
            for key in sorted(entries)
            for name, tensor in sorted(entries[key].items())
        }
        digests = {key: _digest(entries[key]) for key in sorted(entries)}
        about = {"problems": dict(sorted(problems.items())), "digests": digests}
        data = memoryview(save(tensors, {ABOUT: json.dumps(about)}))
        os.ftruncate(self.descriptor, 0)
        at = 0
        while at < len(data):
            at += os.pwrite(self.descriptor, data[at:], at)
        atomic.finish(self.draft, self.final, self.descriptor)
        for key in entries:
            self.cache.places[key] = Place(self.final.name)
        for key, why in problems.items():
            self.cache.places[key] = Place(self.final.name, why)


def unwritable(folder: Path, error: Exception) -> DataError:
    why, remedy = disk.reason(error)
    hint = f"{remedy}; cache_dir and cache_dir_vae set the folders"
    return DataError(f"cannot write the cache `{folder}`: {why}", hint=hint)


def shard_name(keys: Sequence[str]) -> str:
    return _hash("shard", *sorted(keys))


def _entry(file: Any, key: str) -> dict[str, Tensor]:
    prefix = f"{key}."
    # Offsets are found by name: no other entry of the shard is touched.
    names = [n for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118
    return {name[len(prefix) :]: file.get_tensor(name) for name in names}


def _contents(path: Path) -> tuple[list[str], dict[str, str]]:
    """Keys with entries, and keys with problems."""
    with safe_open(str(path), framework="pt") as file:
        keys = sorted({name.partition(".")[0] for name in file.keys()})  # noqa: SIM118
        problems = _about(file).get("problems", {})
    return keys, dict(problems)


def _about(file: Any) -> dict[str, Any]:
    """What a shard says of itself."""
    found: dict[str, Any] = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
    return found


def _damage(path: Path) -> Damage | None:
    try:
        entries, problems = _contents(path)
        with safe_open(str(path), framework="pt") as file:
            found = {key: _entry(file, key) for key in entries}
            digests = _about(file)["digests"]
    except (OSError, SafetensorError, KeyError, ValueError) as e:
        return Damage(path, f"cannot be read: {e}", 0)
    count = len(entries) + len(problems)
    if {key: _digest(entry) for key, entry in found.items()} != digests:
        return Damage(path, CHANGED, count)
    tensors = [t for entry in found.values() for t in entry.values() if t.is_floating_point()]
    if not all(torch.isfinite(t).all() for t in tensors):
        return Damage(path, "it holds NaN or infinity", count)
    return None


def _digest(entry: Entry) -> str:
    h = blake2b(digest_size=16)
    for name, tensor in sorted(entry.items()):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        h.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else b"")
    return h.hexdigest()


def _write_index(
    db: sqlite3.Connection, places: Mapping[str, Place], shards: Sequence[Path]
) -> None:
    db.execute(SHARDS_TABLE)
    db.execute(ENTRIES_TABLE)
    used = {place.shard for place in places.values()}
    sizes = ((s.name, s.stat().st_size) for s in shards if s.name in used)
    db.executemany("insert into shards values (?, ?)", sizes)
    entries = ((k, p.shard, p.problem) for k, p in sorted(places.items(), key=lambda i: i[0]))
    db.executemany("insert into entries values (?, ?, ?)", entries)


def _read_index(path: Path) -> tuple[dict[str, int], dict[str, Place]]:
    """Sizes of the shards it lists, and places."""
    sizes: Any = dict(atomic.rows(path, "select name, bytes from shards"))  # type: ignore[arg-type]
    names = {name: name for name in sizes}  # one string per shard instead of one per entry
    entries: Any = atomic.rows(path, "select key, shard, problem from entries")
    return sizes, {k: Place(names.get(s, s), p) for k, s, p in entries}


def _hash(*parts: str) -> str:
    return blake2b(json.dumps([VERSION, *parts]).encode(), digest_size=20).hexdigest()
