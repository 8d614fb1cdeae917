"""A table: rows by name, in order of preference, with what to write instead of other names.

A table is not changed. `extended` adds rows for the length of a `with`, for programs that bring an
optimizer or a loss of their own. Threads and processes that are started inside see the table as it
was: a row that has to be probed in a child process must stand in the file.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

SHORT = 16  # rows: an error lists them all
MISSPELT = 0.75  # similarity from which a name is taken for a misspelt one


class Row(Protocol):
    """What every row has."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


R = TypeVar("R", bound=Row)


class Table(Mapping[str, R], Generic[R]):
    """Rows by name; an alias is looked up like the name, and not listed.

    kind: what a row is, with its article, as in "an optimizer". refused: names that other trainers
    take, with the end of a sentence that says why not and what to write instead.
    """

    def __init__(
        self,
        kind: str,
        rows: Iterable[R],
        refused: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind, self.refused = kind, refused
        self._rows = tuple(rows)
        self._added: ContextVar[tuple[R, ...]] = ContextVar(f"rows added: {kind}", default=())
        self._check(())

    @property
    def rows(self) -> tuple[R, ...]:
        """All rows, in order of preference."""
        return (*self._rows, *self._added.get())

    def __getitem__(self, name: str) -> R:
        for row in self.rows:
            if name == row.name or name in row.aliases:
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @contextmanager
    def extended(self, *rows: R) -> Iterator[None]:
        """The table with more rows, at its end. Raises ValueError for a name that is there."""
        self._check(rows)
        token = self._added.set((*self._added.get(), *rows))
        try:
            yield
        finally:
            self._added.reset(token)

    def check(self, name: Any) -> Any:
        """A name of the table, or ValueError with what to write instead. Values that are not text
        pass: their type is checked elsewhere."""
        if not isinstance(name, str) or name in self:
            return name
        small = name.strip().lower()
        if small in self.refused:
            raise ValueError(self.refused[small])
        if small in self:
            raise ValueError(f"must be written in small letters; use {self[small].name}")
        if len(self) <= SHORT:
            raise ValueError(f"must be one of {self.listed()}")
        close = get_close_matches(small, self, n=1, cutoff=MISSPELT)
        raise ValueError(f"is not {self.kind}" + (f": did you mean `{close[0]}`?" if close else ""))

    def listed(self) -> str:
        """The names, as an error lists them."""
        return ", ".join(f"'{name}'" for name in self)

    def _check(self, added: tuple[R, ...]) -> None:
        names = [name for row in (*self.rows, *added) for name in (row.name, *row.aliases)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))}: {self.kind} of that name exists")


def load(reference: str) -> Any:
    """The object behind "module:attribute". Raises ImportError when its library is missing."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
