"""Every error sd3tune raises on purpose.

Sd3tuneError                    the user can act on it; the CLI prints message + hint, exit code 1
├── ConfigError                 a file or a flag asks for something that does not exist
├── PlanError                   what was asked cannot run on this machine; the hint says what can
├── HardwareError               the machine, the driver or the PyTorch build is not up to it
│   └── PeerLost                another process of the run is gone; exit code 75, worth a restart
├── ContainerError              the container engine, an image, or what the host gives to it
├── DataError                   an image, a caption or a dataset folder is unusable
├── ModelError                  weights are missing, unreadable, or of another family
├── CheckpointError             a checkpoint is missing, torn, or from another run
├── DiskError                   a disk is full, read-only, gone, forbidden, or in use by another run
├── PublishError                the hub has not confirmed an upload
└── Diverged                    the loss or the gradient stopped being finite

Anything else that escapes is a bug: the CLI prints the traceback, exit code 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sd3tune.urls import redacted

E = TypeVar("E", bound="Sd3tuneError")
T = TypeVar("T")


@dataclass(frozen=True)
class ErrorAndHint:
    """One thing that is wrong, and what to do about it: one line each."""

    message: str
    hint: str


class Sd3tuneError(Exception):
    """What went wrong, in one line that names file, key and value; and what to do, in another.

    URLs in them, which may come from a library's own message, are cut to what may be shown.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str, others: Sequence[ErrorAndHint] = ()) -> None:
        super().__init__(redacted(message))
        self.hint = redacted(hint)
        self.others = tuple(ErrorAndHint(redacted(p.message), redacted(p.hint)) for p in others)

    @classmethod
    def of(cls: type[E], problems: Sequence[ErrorAndHint]) -> E:
        """All problems at once. problems: one or more, in the order in which they are printed."""
        first, *others = problems
        return cls(first.message, hint=first.hint, others=others)

    @property
    def problems(self) -> tuple[ErrorAndHint, ...]:
        """Everything to print, in order; the first is the error's own message and hint."""
        return (ErrorAndHint(str(self), self.hint), *self.others)


def answers(*checks: Callable[[], T]) -> list[T]:
    """The answers of all checks. Raises the error of the one that refuses something, or a
    ConfigError with the problems of several, each once."""
    found: list[T] = []
    errors: list[Sd3tuneError] = []
    for check in checks:
        try:
            found.append(check())
        except Sd3tuneError as e:
            errors.append(e)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError.of(list(dict.fromkeys(p for e in errors for p in e.problems)))
    return found


def with_more(error: Sd3tuneError, *checks: Callable[[], object]) -> Sd3tuneError:
    """The error, with the problems of other checks behind its own: a ConfigError where these find
    any, otherwise the error itself."""

    def raise_first() -> None:
        raise error

    try:
        answers(raise_first, *checks)
    except Sd3tuneError as e:
        return e
    return error


class ConfigError(Sd3tuneError): ...


class PlanError(Sd3tuneError): ...


class HardwareError(Sd3tuneError): ...


class PeerLost(HardwareError):
    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ContainerError(Sd3tuneError): ...


class DataError(Sd3tuneError): ...


class ModelError(Sd3tuneError): ...


class CheckpointError(Sd3tuneError): ...


class DiskError(Sd3tuneError): ...


class PublishError(Sd3tuneError): ...


class Diverged(Sd3tuneError): ...
