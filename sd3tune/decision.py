"""A choice that was made, who made it and why: what rules, plan and terminal pass to each other."""

from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeVar

T_co = TypeVar("T_co", covariant=True)
By = Literal["user", "default", "auto"]


@dataclass(frozen=True)
class Provenance:
    """Who chose a value: `user` wrote it in `file` under `key`, `default` is the setting's own
    default, `auto` was decided from the machine, the data, or another setting (which `file` and
    `key` then name)."""

    by: By
    file: str | None = None  # as shown: a path, or "the command line"
    key: str | None = None  # as written there, which may be an alias
    line: int | None = field(default=None, compare=False)  # of the file, from 1; None: not known

    @property
    def as_json(self) -> dict[str, Any]:
        """As the documents of commands hold it."""
        return asdict(self)


DEFAULT, AUTO = Provenance("default"), Provenance("auto")


def following(source: Provenance) -> Provenance:
    """Of a value that follows from a setting. source: who chose that setting."""
    return (
        Provenance("auto", source.file, source.key, source.line) if source.by == "user" else source
    )


@dataclass(frozen=True)
class Rejected:
    """An option that cannot be used, with every reason."""

    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Decision(Generic[T_co]):
    """A value, who chose it, why, and what was not possible instead. Always shown together."""

    value: T_co
    source: Provenance
    reason: str
    rejected: tuple[Rejected, ...] = ()
