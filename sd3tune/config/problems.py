"""Problems of configuration files: one line that names file, key and value, one on what to do.

All problems are collected and reported together. The rules that find them are elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sd3tune.config.names import REASONS, Unsupported, asks_for_nothing
from sd3tune.decision import Provenance
from sd3tune.errors import ConfigError, ErrorAndHint
from sd3tune.urls import redacted

CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key")  # never shown
COMMAND_LINE = "the command line"


class Problems:
    """Collects the problems of one file and of the words that override it."""

    def __init__(self) -> None:
        self._found: list[tuple[str, ErrorAndHint]] = []

    def add(self, problem: ErrorAndHint, setting: str = "") -> None:
        """setting: whose problem it is; none for a rule that joins several."""
        self._found.append((setting, problem))

    @contextmanager
    def collecting(self, setting: str = "") -> Iterator[None]:
        """Keeps the ConfigError of the block, which ends where it was raised."""
        try:
            yield
        except ConfigError as e:
            for problem in e.problems:
                self.add(problem, setting)

    @property
    def settings(self) -> frozenset[str]:
        """The settings with a problem of their own."""
        return frozenset(setting for setting, _ in self._found if setting)

    def ordered(self, settings: Iterable[str] = ()) -> tuple[ErrorAndHint, ...]:
        """The problems in the order of `settings`. Unknown names of settings come first. Problems
        of several settings come at the position of "" in `settings`, or last."""
        rank = {setting: i for i, setting in enumerate(dict.fromkeys([*settings, ""]))}
        found = sorted(self._found, key=lambda item: rank.get(item[0], -1))
        return tuple(dict.fromkeys(problem for _, problem in found))

    def raise_any(self) -> None:
        """Raises ConfigError with everything that was found."""
        if self._found:
            raise ConfigError.of(self.ordered())


@dataclass(frozen=True)
class Location:
    """Where settings were written, as problems name it."""

    file: str
    sources: Mapping[str, Provenance] = field(default_factory=dict)
    dataset: str | None = None

    def of(self, setting: str = "") -> str:
        """ "`config.json`", "the command line", or "`datasets.json`: dataset `a`"."""
        file = self.sources[setting].file if setting in self.sources else self.file
        whose = f": dataset `{self.dataset}`" if self.dataset is not None else ""
        return shown_file(file or self.file) + whose


def shown_file(file: str) -> str:
    """A file between backticks; "the command line" as it is."""
    return file if file == COMMAND_LINE else f"`{file}`"


def known_settings(
    values: Mapping[str, Any],
    kind: type[BaseModel],
    location: Location,
    problems: Problems,
    unsupported: Mapping[str, Unsupported] = REASONS,
) -> dict[str, Any]:
    """The settings that `kind` has. A name known from other trainers that asks for nothing is
    dropped; every other name is a problem."""
    kept = {}
    for name, value in values.items():
        if name in kind.model_fields:
            kept[name] = value
        elif name not in unsupported:
            problems.add(_unknown(name, kind, location.of(name)), name)
        elif not asks_for_nothing(name, value):
            why = unsupported[name]
            what = f"{location.of(name)}: `{name}={_shown_as(name, value)}` {why.reason}"
            problems.add(ErrorAndHint(what, why.hint), name)
    return kept


def _unknown(name: str, kind: type[BaseModel], where: str) -> ErrorAndHint:
    close = get_close_matches(name, [*kind.model_fields, *REASONS], n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`?" if close else "docs/reference/settings.md lists them all"
    return ErrorAndHint(f"{where}: unknown setting `{name}`", hint)


def validated(
    values: Mapping[str, Any], kind: type[BaseModel], location: Location, problems: Problems
) -> None:
    """Adds a problem for every value that `kind` does not take, once for each setting."""
    known = problems.settings
    try:
        kind.model_validate(dict(values))
    except ValidationError as e:
        for setting, problem in _each(e, kind, location, values):
            if setting not in known:
                problems.add(problem, setting)


def _each(
    error: ValidationError, kind: type[BaseModel], location: Location, values: Mapping[str, Any]
) -> Iterator[tuple[str, ErrorAndHint]]:
    """pydantic's errors as ours: one for each setting, or for each key of a setting's object."""
    seen = set()
    for details in error.errors():
        setting = str(details["loc"][0]) if details["loc"] else ""
        inside = isinstance(values.get(setting), dict) and _is_object(kind, setting)
        spot = (setting, *details["loc"][1:]) if inside else (setting,)
        if spot in seen:  # the other types that a value may have
            continue
        seen.add(spot)
        say = _inside if inside else _plain
        yield setting, say(details, kind, location.of(setting), values.get(setting))


def _is_object(kind: type[BaseModel], setting: str) -> bool:
    annotation = kind.model_fields[setting].annotation
    return any(
        isinstance(t, type) and issubclass(t, BaseModel)
        for t in (annotation, *get_args(annotation))
    )


def _plain(details: ErrorDetails, kind: type[BaseModel], spot: str, written: Any) -> ErrorAndHint:
    setting = str(details["loc"][0]) if details["loc"] else ""
    if details["type"] == "missing":
        return ErrorAndHint(f"{spot}: `{setting}` is missing", f"add it: {_help(kind, setting)}")
    sentence = _sentence(details)
    if not setting:  # a rule inside an object names its keys itself
        head, _, hint = sentence.partition("; ")
        return ErrorAndHint(f"{spot}: {head}", hint or "change one of them")
    value = _shown_as(setting, written)
    sentence, _, advice = sentence.partition("; use ")
    hint = f"use {setting}={advice}" if advice else _help(kind, setting)
    return ErrorAndHint(f"{spot}: `{setting}={value}` {sentence}", hint)


def _inside(details: ErrorDetails, kind: type[BaseModel], spot: str, written: Any) -> ErrorAndHint:
    """A problem of a key of an object that is itself a setting's value."""
    name, key = str(details["loc"][0]), ".".join(str(part) for part in details["loc"][1:])
    hint = _help(kind, name)
    if not key:  # a rule over several keys names them itself
        return ErrorAndHint(f"{spot}: `{name}`: {_sentence(details)}".replace("; ", ", "), hint)
    if details["type"] == "missing":
        return ErrorAndHint(f"{spot}: `{name}.{key}` is missing", hint)
    if details["type"] == "extra_forbidden":
        return ErrorAndHint(f"{spot}: `{name}` has no key `{shown(key)}`", hint)
    value = shown(written.get(key))
    return ErrorAndHint(f"{spot}: `{name}.{key}={value}` {_sentence(details)}", hint)


def _shown_as(name: str, value: Any) -> str:
    return "…" if name in CREDENTIALS else shown(value)


def shown(value: Any) -> str:
    """A value of a file on one line, without credentials of an address, cut at 80 characters."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = redacted(" ".join(text.split()))
    return text if len(text) <= 80 else text[:77] + "…"


def sound(text: str, where: str) -> str:
    """Text that can be written to a file again: JSON and command lines can hold half a character.
    Raises ConfigError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: `{shown(ascii(text)[1:-1])}` is not valid Unicode", hint="write it as UTF-8"
        ) from None
    return text


def _sentence(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(' or ', ', ')}"
    names = {
        "int": "a whole number", "float": "a number", "string": "text", "bool": "true or false",
        "path": "a path", "finite_number": "a finite number",
    }  # fmt: skip
    for prefix, wanted in names.items():
        if kind.startswith(prefix):
            return f"must be {wanted}"
    limits = {"greater_than_equal": ("at least", "ge"), "greater_than": ("above", "gt"),
              "less_than_equal": ("at most", "le"), "less_than": ("below", "lt")}  # fmt: skip
    if kind in limits:
        bound, key = limits[kind]
        return f"must be {bound} {context[key]:g}"
    return details["msg"].lower()


def _help(kind: type[BaseModel], name: str) -> str:
    field = kind.model_fields.get(name)
    text = " ".join((field.description or "").split()) if field else ""
    silent = field is None or field.is_required() or isinstance(field.default, BaseModel)
    if field is not None and not silent and field.default not in (None, "", ()):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        text += f" Default: {default}."
    return text or "docs/reference/settings.md explains it"
