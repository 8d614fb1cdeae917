"""What a configuration of another trainer becomes, and the report on it.

Nothing is dropped: every key of theirs ends up as mapped, without counterpart, or asking for
nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sd3tune.config.inert import is_off
from sd3tune.config.names import ALIASES, Unsupported
from sd3tune.config.other_trainers import NAMES, Renamed
from sd3tune.config.other_trainers_data import DATASET_NAMES
from sd3tune.config.other_values import value_of
from sd3tune.config.problems import refused
from sd3tune.config.settings.all_settings import AllSettings

BELOW = ("values below", "chosen for it")
UNKNOWN = "is not a name that sd3tune knows"


@dataclass(frozen=True)
class Mapped:
    """Their key and value, and ours. ours: with "dataset ID: " before a key of a dataset."""

    theirs: str
    value: Any
    ours: str
    result: Any


@dataclass(frozen=True)
class Unmapped:
    """A key of theirs without an equivalent, and why."""

    theirs: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Chosen:
    """A value of ours that no key of theirs states: their default or their rule."""

    ours: str
    result: Any
    reason: str


@dataclass
class Translation:
    """One configuration on its way from theirs to ours.

    left: their keys that nothing has looked at yet, nested ones as "optimizer.eps".
    """

    trainer: str
    left: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, Any] = field(default_factory=dict)
    mapped: list[Mapped] = field(default_factory=list)
    unmapped: list[Unmapped] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    taken: dict[str, Any] = field(default_factory=dict)  # keys that `take` has answered

    def take(self, key: str, default: Any = None) -> Any:
        """Their value of a key, which is then looked after; `default` where it is not written."""
        if key not in self.left:
            return default
        value = self.left.pop(key)
        self.taken[key] = value
        return default if value is None else value

    def map(self, theirs: str, value: Any, **ours: Any) -> None:
        """Their key becomes settings of ours."""
        for name, result in ours.items():
            self.config[name] = result
            self.mapped.append(Mapped(theirs, value, name, result))

    def choose(self, reason: str, **ours: Any) -> None:
        """Settings of ours that follow from their defaults or rules."""
        for name, result in ours.items():
            self.config[name] = result
            self.chosen.append(Chosen(name, result, reason))

    def set(self, key: str, default: Any, name: str, reason: str) -> Any:
        """A number that means the same: their value, or their default with the reason."""
        written = self.take(key)
        value = default if written is None else written
        if written is None:
            self.choose(reason, **{name: value})
        else:
            self.map(key, written, **{name: value})
        return value

    def drop(self, key: str, value: Any, reason: str) -> None:
        """A key of theirs that has no equivalent here."""
        if is_off(value) or value in ([], {}):
            self.idle.append(key)
        else:
            self.unmapped.append(Unmapped(key, value, reason))

    def drop_once(self, key: str, value: Any, reason: str) -> None:
        """As `drop`, once for the same sentence about several datasets."""
        if not any(row.reason == reason for row in self.unmapped):
            self.drop(key, value, reason)

    def drop_all(self, keys: str, reason: str) -> None:
        """Several keys without an equivalent, separated by spaces, where they are written."""
        for key in keys.split():
            if key in self.left:
                self.drop(key, self.left.pop(key), reason)

    def rest(self) -> None:
        """Every key that is left, by the tables of names and values that errors use too."""
        for key in list(self.left):
            value = self.left.pop(key)
            name = key.rpartition(".")[2]
            row = NAMES.get(name)
            if name in AllSettings.model_fields:
                self._same(key, value, name)
            elif name in ALIASES:
                self._same(key, value, ALIASES[name])
            elif isinstance(row, Renamed):
                self._same(key, value, row.ours)
            else:
                self.drop(key, value, because(row))
        for key, value in self.taken.items():
            if not self.is_reported(key):
                self._went_into_others(key, value)

    def is_reported(self, key: str) -> bool:
        """Whether a row of the report is about a key of theirs."""
        names = [row.theirs for row in self.mapped] + [row.theirs for row in self.unmapped]
        return key in self.idle or any(key in name.split() for name in names)

    def _went_into_others(self, key: str, value: Any) -> None:
        if is_off(value) or value in ([], {}):
            self.idle.append(key)
        else:
            self.mapped.append(Mapped(key, value, *BELOW))

    def _same(self, key: str, value: Any, name: str) -> None:
        if name in self.config:
            if self.config[name] != value:
                reason = f"{name}={self.config[name]} follows from other keys"
                self.drop(key, value, reason)
            else:
                self.mapped.append(Mapped(key, value, name, value))
            return
        if value is None or value == "":
            self.idle.append(key)
            return
        why = refused(AllSettings, name, value)
        if why is not None:
            value_here = value_of(name, value, why)
            if value_here is None or refused(AllSettings, name, value_here) is not None:
                self.drop(key, value, f"{name} {why}")
                return
            self.map(key, value, **{name: value_here})
            return
        self.map(key, value, **{name: value})

    def dataset(
        self,
        entry: dict[str, Any],
        mapped: Mapping[str, tuple[Any, str]],
        written: Iterable[str] = (),
    ) -> None:
        """A dataset of ours. mapped: by their key, their value and the key of ours it became.
        written: all keys of theirs; one that has no row in the report asks for nothing."""
        taken = {d["id"] for d in self.datasets}
        entry["id"] = _unused(str(entry["id"]), taken)
        self.datasets.append(entry)
        for theirs, (value, ours) in mapped.items():
            shown = f"dataset {entry['id']}: {ours}"
            self.mapped.append(Mapped(theirs, value, shown, entry.get(ours)))
        self.idle += [key for key in written if not self.is_reported(key)]

    def drop_of_dataset(self, key: str, value: Any) -> None:
        """A key of a dataset of theirs that has no equivalent here."""
        self.drop(key, value, because(DATASET_NAMES.get(key.rpartition(".")[2])))


def because(row: Unsupported | None) -> str:
    """The reason of a row of the tables, with its hint where that does not quote a value."""
    if row is None:
        return UNKNOWN
    hint = "" if "{value}" in row.hint or row.hint.startswith("leave it out") else f"; {row.hint}"
    return row.reason + hint


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def flattened(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Objects inside objects as "outer.inner"; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
