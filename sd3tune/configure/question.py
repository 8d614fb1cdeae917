"""One question of the interview: what all of them have."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.configure.costs import cost
from sd3tune.configure.situation import Answers, Situation
from sd3tune.errors import ConfigError, Sd3tuneError


@dataclass(frozen=True)
class OfferedAnswer:
    """One answer that is offered. cost: what it takes here, or why it is not possible."""

    answer: str
    about: str
    cost: str


class InterviewQuestion(ABC):
    """One question. fixed_by: settings that answer it when the command line sets them. numbered:
    whether a number means a choice. completes: `path` where the answer is a folder. tells_all: a
    choice shows all that is known of it."""

    name: str
    title: str
    why: str
    help: str
    fixed_by: Sequence[str] = ()
    numbered = True
    completes = ""
    tells_all = False

    @abstractmethod
    def default(self, known: Situation, answers: Answers) -> str | None:
        """The answer that Enter gives; None: there is none. answers: of the questions before."""

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        """What is offered, the default first."""
        yield from ()

    def notes(self, known: Situation, answers: Answers) -> Iterator[str]:
        """What is known about the default, for a question without choices."""
        yield from ()

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        """The answer that was typed. Raises Sd3tuneError."""
        return typed

    def after(self, answer: str, known: Situation) -> Iterator[str]:
        """What the user should know once it is answered."""
        yield from ()

    def answer_of(self, settings: Mapping[str, Any]) -> str | None:
        """The answer that settings of the command line give; None: they are silent."""
        return None

    def _cost(self, answer: str, known: Situation, answers: Answers) -> str:
        try:
            return cost(known.draft({**answers, self.name: answer}))
        except Sd3tuneError as e:
            return f"not possible here: {short(e)}"


def chosen(typed: str, choices: Sequence[str]) -> str:
    """The choice of a number that was typed, or the text itself. Raises ConfigError."""
    if not typed.isdigit():
        return typed
    if not 0 < int(typed) <= len(choices):
        raise ConfigError(
            f"there is no choice {typed}", hint=f"type a number from 1 to {len(choices)}, or a name"
        )
    return choices[int(typed) - 1]


def shown_path(text: str, known: Situation) -> str:
    """A path as it may be typed; a repository as it is."""
    path = Path(text)
    if path.is_absolute() and path.is_relative_to(known.here.project):
        return str(path.relative_to(known.here.project))
    return text


def short(error: Sd3tuneError) -> str:
    """The first reason of an error: the planner's name every option that it refused."""
    words = str(error)
    return words if len(words) <= 150 else f"{words[:150].rpartition(' ')[0]} …"
