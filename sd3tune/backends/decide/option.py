"""One value of one axis, and the rules under which it works."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sd3tune.backends.decide.rules import Rule
from sd3tune.backends.observe.facts import Facts
from sd3tune.tables.schemes import Level as Level


@dataclass(frozen=True)
class Option:
    name: str
    rules: tuple[Rule, ...] = ()
    because: str = ""  # shown when chosen
    auto: bool = True  # False: only when the user asks
    level: Callable[[Facts], Level] = lambda f: "native"


Options = tuple[Option, ...] | Callable[[], tuple[Option, ...]]


class Axes(Mapping[str, tuple[Option, ...]]):
    """Axis -> its options, in order of preference. Where an axis has a table of its own, its
    options are the rows that the table has when it is asked."""

    def __init__(self, axes: Mapping[str, Options]) -> None:
        self._axes = axes

    def __getitem__(self, axis: str) -> tuple[Option, ...]:
        options = self._axes[axis]
        return options() if callable(options) else options

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)
