"""Reads captions and image sizes from a table: .csv, .tsv, .jsonl or .parquet.

A caption that is too long sets its image aside, never the table.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from sd3tune.data.table_names import Matches, matched, shown_name
from sd3tune.errors import DataError
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import Columns, HubColumns

Size = tuple[int, int]
TABLE_BYTES = 64 * 2**30
LINE_CHARACTERS = 32 * 2**20  # longest line or cell of a table of text
BATCH_ROWS, BATCH_BYTES = 1024, 256 * 2**20  # of a .parquet, read at one time
TEXT_CHARACTERS = 65_536  # longest caption; T5 uses about the first 1,000 characters
TEXTS = {".csv": ",", ".tsv": "\t"}  # suffix -> what separates its cells
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = frozenset((*TEXTS, *JSON_LINES, ".parquet"))


@dataclass(frozen=True, slots=True)
class ImageRow:
    captions: tuple[str, ...]
    size: Size | None
    too_long: int = 0  # characters of a caption above the limit; 0 if there is none


class ImageTable:
    """The rows of a table, by the name of their image. Names that are not those of the files are
    paired as data/table_names.py describes."""

    def __init__(
        self, rows: Mapping[str, ImageRow], *, with_suffix: bool, files: Sequence[str] = ()
    ) -> None:
        self.rows, self._with_suffix = rows, with_suffix
        exact = {self._key(name) for name in files}
        left = [name for name in files if self._key(name) not in rows]
        self.matches: Matches = matched((r for r in rows if r not in exact), left)
        self.unmatched = [n for n in left if n not in self.matches.rows]

    def get(self, name: str) -> ImageRow | None:
        """The row of a file, or of the several rows that name it."""
        if (row := self.rows.get(self._key(name))) is not None:
            return row
        found = None
        for key in self.matches.rows.get(name, ()):
            found = _joined(found, self.rows[key]) if found else self.rows[key]
        return found

    def reason(self, name: str, kind: str) -> str:
        """Why a file has no row. kind: of the table."""
        if (several := self.matches.several.get(name)) is not None:
            return f"no row of the {kind} table is its own: {several}"
        return f"no row for it in the {kind} table"

    def notes(self, kind: str) -> Iterator[str]:
        """What was paired although the names differ, and what was compared in vain."""
        if pairs := self.matches.rows:
            name, rows = next(iter(pairs.items()))
            yield (
                f"the {kind} table names images in another way: `{shown_name(rows[0])}` is taken "
                f"for `{name}` "
                f"({len(pairs)} in all)"
            )
        if self.unmatched and self.matches.unused:
            yield f"the {kind} table has no row for {self.compared()}"

    def compared(self) -> str:
        """One example of each side, where names did not fit."""
        images, rows = self.unmatched, self.matches.unused
        return (
            f"{len(images)} images, such as `{shown_name(images[0])}`; {len(rows)} of its rows "
            f"have no image, such as `{shown_name(rows[0])}`"
        )

    def _key(self, name: str) -> str:
        return name if self._with_suffix else str(PurePosixPath(name).with_suffix(""))


def read(columns: "Columns", whose: str, files: Sequence[str] = ()) -> ImageTable:
    """Reads a table. files: the names that its rows are for. Raises DataError if it cannot be read
    or lacks a column."""
    rows: dict[str, ImageRow] = {}
    for record in _records(columns, whose):
        cell = record.get(columns.filename_column)
        name = "" if cell is None else str(cell).strip().removeprefix("./")
        if name:
            new, old = row(record, columns), rows.get(name)
            rows[name] = _joined(old, new) if old else new
    return ImageTable(rows, with_suffix=columns.identifier_includes_extension, files=files)


def _joined(old: ImageRow, new: ImageRow) -> ImageRow:
    """One row from two rows of the same image, with the captions of both."""
    captions = dict.fromkeys((*old.captions, *new.captions))
    return ImageRow(tuple(captions), new.size or old.size, max(old.too_long, new.too_long))


def row(record: Mapping[str, Any], columns: "Columns | HubColumns") -> ImageRow:
    """A row from its cells."""
    found = [c for column in columns.caption_column for c in texts(record.get(column))]
    if not found and columns.fallback_caption_column:
        found = texts(record.get(columns.fallback_caption_column))
    long = max((len(c) for c in found if len(c) > TEXT_CHARACTERS), default=0)
    found = [c for c in found if len(c) <= TEXT_CHARACTERS]
    size = None
    if columns.width_column and columns.height_column:
        try:
            size = int(record[columns.width_column]), int(record[columns.height_column])
        except (TypeError, ValueError, OverflowError):
            size = None
    if size is not None and min(size) < 1:
        size = None  # as for an empty cell: the image's header is read instead
    return ImageRow(tuple(found), size, long)


def texts(value: Any) -> list[str]:
    """The captions in a cell, which may hold a list. Blank and non-text values are dropped."""
    values = value if isinstance(value, list | tuple) else [value]
    words = (" ".join(_text(v).replace("\0", " ").split()) for v in values)
    return [w for w in words if w]


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # text columns of some writers
        try:
            return value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""  # some writers store this for an empty cell
    return str(value) if isinstance(value, str | int | float) else ""


def _records(columns: "Columns", whose: str) -> Iterator[Mapping[str, Any]]:
    wanted = [columns.filename_column, *columns.caption_column]
    wanted += [c for c in (columns.fallback_caption_column, columns.width_column,
                           columns.height_column) if c]  # fmt: skip
    where = f"{whose}: `{columns.path}`"
    try:
        with opening.opened(columns.path, TABLE_BYTES) as file:
            suffix = columns.path.suffix.lower()
            if suffix == ".parquet":
                yield from _parquet(file, wanted, where, whose)
            elif suffix in JSON_LINES:
                yield from _json_lines(file, wanted, where)
            else:
                yield from _csv(file, wanted, where, TEXTS.get(suffix, ","))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        why = getattr(e, "strerror", None) or e
        raise DataError(
            f"{where} cannot be read: {why}", hint="check the file and its path"
        ) from None


def _parquet(
    file: BinaryIO, wanted: list[str], where: str, whose: str
) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{whose}: a .parquet needs pyarrow, which is not installed",
            hint="pip install 'sd3tune[parquet]'",
        ) from None
    try:
        schema = parquet.ParquetFile(file).schema_arrow
        _has(wanted, schema.names, where)
        # Dictionary-encoded: a value shared by many rows is stored once until sizes are known.
        texts = [column.name for column in schema if _is_text(column.type)]
        table = parquet.ParquetFile(file, read_dictionary=texts)
        for batch in table.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(wanted))):
            size = sum(_bytes(column) for column in batch.columns)
            if size > BATCH_BYTES:
                raise DataError(
                    f"{where}: {batch.num_rows} rows of it take {size >> 20} MiB",
                    hint="keep names, captions and sizes in these columns only",
                )
            columns = map(_plain, batch.columns)
            yield from pa.RecordBatch.from_arrays([*columns], batch.schema.names).to_pylist()
    except pa.ArrowException as e:
        raise DataError(f"{where} is not a parquet file: {e}", hint="check parquet.path") from None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_binary(kind))


def _is_shared(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_dictionary(kind)) and _is_text(kind.value_type)


def _bytes(column: Any) -> int:
    """Upper bound of the bytes of a column, if every row had its own copy of its value."""
    from pyarrow import compute

    if not _is_shared(column.type):
        return int(column.nbytes)
    longest = compute.max(compute.binary_length(column.dictionary)).as_py()
    return len(column) * (longest or 0)


def _plain(column: Any) -> Any:
    return column.cast(column.type.value_type) if _is_shared(column.type) else column


def _csv(
    file: BinaryIO, wanted: list[str], where: str, separator: str
) -> Iterator[Mapping[str, Any]]:
    with io.TextIOWrapper(file, newline="", encoding="utf-8-sig") as text, _long_cells():
        reader = csv.DictReader(_lines(text), delimiter=separator)
        _has(wanted, reader.fieldnames or (), where)
        try:
            yield from reader
        except csv.Error as e:
            raise csv.Error(f"{e}, in line {reader.line_num}") from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses a table for one cell above 131,072 characters."""
    usual = csv.field_size_limit(LINE_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


def _json_lines(file: BinaryIO, wanted: list[str], where: str) -> Iterator[Mapping[str, Any]]:
    names: dict[str, None] = {}  # of all lines: a line leaves out what it does not have
    with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        for number, line in enumerate(_lines(text), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as e:
                record = e
            if not isinstance(record, dict):
                raise DataError(
                    f"{where}: line {number} is not a JSON object",
                    hint='write one {"filename": …, "caption": …} per line',
                )
            names.update(dict.fromkeys(record))
            yield record
    _has(wanted, names, where)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines up to the longest allowed length: a file without line ends would otherwise be read into
    memory completely."""
    while line := text.readline(LINE_CHARACTERS + 1):
        if len(line) > LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {LINE_CHARACTERS} characters")
        yield line


def _has(wanted: list[str], names: Any, where: str) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{where} has no column `{name}`", hint=f"its columns: {_listed(names)}"
            )


def _listed(names: Any) -> str:
    text = ", ".join(map(str, names)) or "none"
    return text if len(text) <= 300 else text[:297] + "…"
