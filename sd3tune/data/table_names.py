"""Pairs the names in a table with the names of files.

Tables name images in many ways: with the path on another machine, with backslashes, URL-encoded,
by base name, without suffix. `matched` finds the file of each row where only one fits, and guesses
nothing where several do.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from urllib.parse import unquote

from sd3tune.data.headers import SUFFIXES
from sd3tune.urls import is_url, shown_url

Parts = tuple[str, ...]  # folders, then the name without its suffix
MOST_PARTS = 32  # of a name, from its end, that are compared
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
        parts = [part for part in path.split("/") if part not in ("", ".")][-MOST_PARTS:]
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
    listed = [PathName.of(row) for row in rows]
    fits = _fits(listed, [PathName.of(file) for file in files])
    closest: dict[str, tuple[int, int]] = {}  # row -> parts in common, how many files have so many
    for found in fits.values():
        for row, count in found:
            most, files_with_most = closest.get(row.written, (0, 0))
            if count >= most:
                closest[row.written] = count, 1 + (files_with_most if count == most else 0)
    pairs, several = {}, {}
    for name, found in fits.items():
        # A row with the folder of another file belongs to that file.
        left = [row for row, count in found if count == closest[row.written][0]]
        others = [(row, closest[row.written][1] - 1) for row in left]
        if len({(row.parts, row.suffix) for row in left}) > 1:
            shown = ", ".join(f"`{shown_name(row.written)}`" for row in left[:2])
            several[name] = f"{len(left)} rows fit it, such as {shown}"
        elif left and others[0][1]:
            several[name] = f"`{shown_name(left[0].written)}` fits it and {others[0][1]} more files"
        elif left:
            pairs[name] = tuple(row.written for row in left)
    used = {row for names in pairs.values() for row in names}
    return Matches(pairs, several, [row.written for row in listed if row.written not in used])


def _fits(
    rows: Sequence[PathName], files: Sequence[PathName]
) -> dict[str, list[tuple[PathName, int]]]:
    """For each file the rows that agree with it in most parts, with the number of parts."""
    whole: dict[Parts, list[PathName]] = defaultdict(list)
    ends: dict[Parts, list[PathName]] = defaultdict(list)  # also of rows with more folders
    for row in rows:
        whole[row.parts].append(row)
        for count in range(1, len(row.parts) + 1):
            ends[row.parts[-count:]].append(row)
    fits = {}
    for file in files:
        shorter = (whole.get(file.parts[-n:], ()) for n in range(len(file.parts) - 1, 0, -1))
        groups = chain([ends.get(file.parts, ())], shorter)
        agreeing = ([(r, n) for r in group if (n := file.common(r))] for group in groups)
        fits[file.written] = next(filter(None, agreeing), [])
    return fits
