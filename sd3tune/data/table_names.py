"""Pairs the names in a table with the names of files.

Tables name images in many ways: with the path on another machine, with backslashes, URL-encoded,
by base name, without suffix. `matched` finds the file of each row where only one fits, and guesses
nothing where several do.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from sd3tune.data.headers import SUFFIXES
from sd3tune.urls import is_url, shown_url

Parts = tuple[str, ...]  # folders, then the name without its suffix
SHOWN_CHARACTERS = 200  # of a name: a cell may hold a megabyte


@dataclass(frozen=True)
class PathName:
    """A name in the form in which names are compared."""

    written: str
    parts: Parts
    suffix: str  # of an image, lower case; "" for other names

    @classmethod
    def of(cls, written: str) -> "PathName":
        """Slashes for backslashes, without URL encoding, dots, and differences in case or in the
        encoding of accents."""
        path = shown_url(written).partition("://")[2] if is_url(written) else written
        path = unicodedata.normalize("NFC", unquote(path)).replace("\\", "/").casefold()
        parts = [part for part in path.split("/") if part not in ("", ".")]
        stem, dot, suffix = (parts[-1] if parts else "").rpartition(".")
        if not (dot and stem and f".{suffix}" in SUFFIXES):
            return cls(written, tuple(parts), "")
        return cls(written, (*parts[:-1], stem), f".{suffix}")

    def common(self, other: "PathName") -> int:
        """How many parts agree, from the end; 0 if the names cannot be of the same file: then one
        has a folder that the other does not have, or another suffix."""
        if self.suffix and other.suffix and self.suffix != other.suffix:
            return 0
        count = min(len(self.parts), len(other.parts))
        return count if count and self.parts[-count:] == other.parts[-count:] else 0


@dataclass(frozen=True)
class Matches:
    """rows: file -> its rows, which are spellings of one name. several: file -> rows of different
    names that fit it equally well, or one row that fits other files as well."""

    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: Mapping[str, str] = field(default_factory=dict)  # with the reason
    unused: Sequence[str] = ()  # rows without a file


def shown_name(name: str) -> str:
    """A name as notes show it."""
    short = shown_url(name)
    return short if len(short) <= SHOWN_CHARACTERS else f"{short[:SHOWN_CHARACTERS]}…"


def matched(rows: Iterable[str], files: Iterable[str]) -> Matches:
    """The rows of each file. A name that agrees in more parts goes before one that agrees in
    fewer."""
    by_stem: dict[str, list[PathName]] = defaultdict(list)
    listed = [PathName.of(row) for row in rows]
    for row in listed:
        by_stem[row.parts[-1] if row.parts else ""].append(row)
    best = {file.written: list(_best(file, by_stem)) for file in map(PathName.of, files)}
    users: dict[str, dict[str, int]] = defaultdict(dict)  # row -> file -> parts in common
    for name, fits in best.items():
        for row, count in fits:
            users[row.written][name] = count
    pairs, several = {}, {}
    for name, fits in best.items():
        # A row with the folder of another file belongs to that file.
        left = [row for row, count in fits if count == max(users[row.written].values())]
        ties = [row for row in left if len(_closest(users[row.written])) > 1]
        if len({(row.parts, row.suffix) for row in left}) > 1:
            shown = ", ".join(f"`{shown_name(row.written)}`" for row in left[:2])
            several[name] = f"{len(left)} rows fit it, such as {shown}"
        elif ties:
            count = len(_closest(users[ties[0].written]))
            several[name] = (
                f"the row `{shown_name(ties[0].written)}` fits it and {count - 1} more files"
            )
        elif left:
            pairs[name] = tuple(row.written for row in left)
    used = {row for found in pairs.values() for row in found}
    return Matches(pairs, several, [row.written for row in listed if row.written not in used])


def _best(
    file: PathName, by_stem: Mapping[str, Sequence[PathName]]
) -> Iterator[tuple[PathName, int]]:
    """The rows that agree with a file in most parts, with the number of parts."""
    fits = [
        (row, file.common(row)) for row in by_stem.get(file.parts[-1] if file.parts else "", ())
    ]
    most = max((count for _, count in fits), default=0)
    return ((row, count) for row, count in fits if count == most > 0)


def _closest(users: Mapping[str, int]) -> list[str]:
    return [file for file, count in users.items() if count == max(users.values())]
