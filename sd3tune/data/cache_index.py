"""The index of a cache: which shard holds which key. It is derived from the shards."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.data import shards, sqlite_files

SHARDS_TABLE = "create table shards (name text primary key, bytes integer) without rowid"
ENTRIES_TABLE = """
create table entries (key text primary key, shard text, problem text) without rowid
"""
TABLES = (SHARDS_TABLE, ENTRIES_TABLE)


@dataclass(frozen=True)
class EntryLocation:
    """The shard of an entry, or the reason why an input has no entry. Inputs that cannot be encoded
    are recorded under their content too."""

    shard: str
    problem: str | None = None


def write(
    db: sqlite3.Connection, places: Mapping[str, EntryLocation], paths: Sequence[Path]
) -> None:
    """Fills an empty database. places: by key. paths: of the shards."""
    db.execute(SHARDS_TABLE)
    db.execute(ENTRIES_TABLE)
    used = {place.shard for place in places.values()}
    sizes = ((s.name, s.stat().st_size) for s in paths if s.name in used)
    db.executemany("insert into shards values (?, ?)", sizes)
    entries = ((k, p.shard, p.problem) for k, p in sorted(places.items(), key=lambda i: i[0]))
    db.executemany("insert into entries values (?, ?, ?)", entries)


def read(path: Path) -> tuple[dict[str, int], dict[str, EntryLocation]]:
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
