"""What a rule over several settings is, and how a table of them is evaluated."""

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sd3tune.errors import ErrorAndHint

S = TypeVar("S")


@dataclass(frozen=True)
class Rule(Generic[S]):
    """One row.

    settings: those it concerns; it is not asked when one of them is wrong by itself.
    when: whether the configuration violates it (error), or deserves the sentence (warning).
    sentence, hint: what is wrong and what to write. `{c.NAME}` is the value of a setting, `{which}`
        what `when` answered.
    """

    settings: tuple[str, ...]
    severity: Literal["error", "warning"]
    when: Callable[[S], object]
    sentence: str
    hint: str
    blamed: tuple[str, ...] = ()  # settings whose files a problem names; (): all

    def problem(self, settings: S) -> ErrorAndHint | None:
        """The row's words about these settings, when it holds."""
        if not (which := self.when(settings)):
            return None
        filled = (text.format(c=settings, which=which) for text in (self.sentence, self.hint))
        return ErrorAndHint(*filled)


@dataclass(frozen=True)
class Violation:
    """A rule that holds. settings: those it concerns, whose files say where it was written."""

    settings: tuple[str, ...]
    problem: ErrorAndHint

    @property
    def sentence(self) -> str:
        """On one line."""
        return f"{self.problem.message}; {self.problem.hint}"

    def at(self, where: str) -> ErrorAndHint:
        """The problem with the files in which it was written."""
        return ErrorAndHint(f"{where}: {self.problem.message}", self.problem.hint)


def violated(
    rules: Iterable[Rule[S]],
    severity: Literal["error", "warning"],
    settings: S,
    wrong: Set[str] = frozenset(),
) -> Iterator[Violation]:
    """Every row of a severity that holds. wrong: settings without a usable value."""
    for rule in rules:
        asked = rule.severity == severity and wrong.isdisjoint(rule.settings)
        if asked and (problem := rule.problem(settings)) is not None:
            yield Violation(rule.blamed or rule.settings, problem)
