"""Problems of configuration files: one line that names file, key and value, one on what to do.

All problems are collected and reported together. The rules that find them are elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sd3tune.config.accepted import Accepted
from sd3tune.config.docstrings import docstring
from sd3tune.config.inert import asks_for_nothing, is_off
from sd3tune.config.names import Unsupported
from sd3tune.config.other_trainers import NAMES, Renamed
from sd3tune.config.other_values import VALUES_ELSEWHERE, value_of
from sd3tune.config.probable import behind_the_point, percent
from sd3tune.decision import Provenance
from sd3tune.errors import ConfigError, ErrorAndHint
from sd3tune.urls import redacted

CREDENTIALS = (  # never shown
    "aws_access_key_id", "aws_secret_access_key", "webhook_config", "webhook_url", "callback_url",
    "auth_token", "bearer_token", "url", "address", "endpoint", "callback", "discord_url", "token",
    "api_key", "authorization", "headers", "bearer",
)  # fmt: skip
COMMAND_LINE = "the command line"
ENVIRONMENT = "the environment"  # variables of the process
NOT_FILES = (COMMAND_LINE, ENVIRONMENT)
MISSPELT = 0.8  # similarity from which a name is taken for a misspelt one


class Problems:
    """Collects the problems of one file and of the words that override it."""

    def __init__(self) -> None:
        self._found: list[tuple[str, ErrorAndHint]] = []
        self._meant: set[str] = set()

    def add(self, problem: ErrorAndHint, setting: str = "") -> None:
        """setting: whose problem it is; none for a rule that joins several."""
        self._found.append((setting, problem))

    def meant(self, setting: str) -> None:
        """Somebody wrote this setting under a wrong name: that it is missing is not a problem."""
        self._meant.add(setting)

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
        """The settings with a problem of their own, or written under a wrong name."""
        return frozenset(self.own | self._meant)

    @property
    def own(self) -> set[str]:
        """The settings with a problem of their own."""
        return {setting for setting, _ in self._found if setting}

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
    inside: str = ""  # which object of the file, as problems name it

    def of(self, setting: str = "") -> str:
        """ "`config.json:4`", "the command line", or "`datasets.json`: dataset `a`"."""
        return self.of_all((setting,))

    def of_all(self, settings: Iterable[str]) -> str:
        """Every place in which one of the settings was written, with its line where that is known;
        the file where none was."""
        written: dict[str, set[int]] = {}
        for source in (self.sources[s] for s in settings if s in self.sources):
            lines = written.setdefault(source.file or self.file, set())
            lines |= set() if source.line is None else {source.line}
        files = sorted(written or {self.file}, key=lambda file: (file in NOT_FILES, file))
        places = " and ".join(_with_lines(file, sorted(written.get(file, ()))) for file in files)
        places += f": {self.inside}" if self.inside else ""
        return places + (f": dataset `{self.dataset}`" if self.dataset is not None else "")


def _with_lines(file: str, lines: Sequence[int]) -> str:
    """lines: of the file, sorted."""
    if len(lines) < 2:
        return shown_file(":".join((file, *map(str, lines))))
    listed = ", ".join(map(str, lines[:-1]))
    return f"{shown_file(file)}, lines {listed} and {lines[-1]}"


def shown_file(file: str) -> str:
    """A file between backticks; "the command line" and "the environment" as they are."""
    return file if file in NOT_FILES else f"`{file}`"


def known_settings(
    values: Mapping[str, Any],
    kind: type[BaseModel],
    location: Location,
    problems: Problems,
    unsupported: Mapping[str, Unsupported] = NAMES,
) -> tuple[dict[str, Any], list[str]]:
    """The settings that `kind` has, and the names that ask for nothing and are passed over. Every
    other name is a problem."""
    kept, passed_over = {}, []
    for name, value in values.items():
        row = unsupported.get(name)
        if name in kind.model_fields:
            kept[name] = value
        elif row is None:
            problems.add(_unknown(name, kind, location.of(name), problems), name)
        elif _passes(row, name, values, kind):
            passed_over.append(name)
        else:
            what = f"{location.of(name)}: `{name}={_shown_as(name, value)}` {row.reason}"
            problems.add(ErrorAndHint(what, _led(row, name, value, kind)), name)
            if isinstance(row, Renamed):
                problems.meant(row.ours)
    return kept, passed_over


def _led(row: Unsupported, name: str, value: Any, kind: type[BaseModel]) -> str:
    """The row's hint with the value, by our word for it where a setting is a choice of words, and
    without it where our setting would refuse it."""
    ours = row.ours if isinstance(row, Renamed) else ""
    word = str(value).lower() if ours in VALUES_ELSEWHERE and str(value).isupper() else value
    translated = value_of(ours, value, "")
    if ours and not translated and (refusal := refused(kind, ours, word)):
        advice = refusal.partition("; use ")[2]
        written = f"write {ours}={advice}" if advice else f"write {ours}: {_help(kind, ours)}"
        return "leave it out" if is_off(value) else written
    return row.hint.replace("{value}", translated or _shown_as(name, word))


def refused(kind: type[BaseModel], setting: str, value: Any) -> str | None:
    """Why a setting does not take this value by itself, or None where it does."""
    try:
        kind.model_validate({setting: value})
    except ValidationError as e:
        own = (details for details in e.errors() if details["loc"][:1] == (setting,))
        return next(map(_sentence, own), None)
    return None


def _passes(row: Unsupported, name: str, values: Mapping[str, Any], kind: type[BaseModel]) -> bool:
    """Whether the row's name may be left out as it stands: another name of a setting only where it
    is off and the setting is off by default."""
    if isinstance(row, Accepted):
        return True
    if not isinstance(row, Renamed):
        return asks_for_nothing(name, values[name], values)
    field = kind.model_fields.get(row.ours)
    default = field.default if field is not None and not field.is_required() else None
    return is_off(values[name]) and (values[name] in (None, "") or is_off(default))


def _unknown(name: str, kind: type[BaseModel], where: str, problems: Problems) -> ErrorAndHint:
    """A misspelt name leads to a setting that there is; nothing else is guessed from letters."""
    close = get_close_matches(name, kind.model_fields, n=1, cutoff=MISSPELT)
    if close:
        problems.meant(close[0])
    hint = f"did you mean `{close[0]}`?" if close else "docs/reference/settings.md lists them all"
    return ErrorAndHint(f"{where}: unknown setting `{shown(name)}`", hint)


def validated(
    values: Mapping[str, Any], kind: type[BaseModel], location: Location, problems: Problems
) -> None:
    """Adds a problem for every value that `kind` does not take, once for each setting."""
    known, meant = problems.own, problems.settings - values.keys()
    try:
        kind.model_validate(dict(values))
    except ValidationError as e:
        for setting, problem in _each(e, kind, location, values):
            if setting not in known | meant:
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
    if ours := value_of(setting, written, sentence):
        advice = ours
        if sentence.startswith(("must be", "is not a")):
            sentence = "is another program's word"
    hint = f"use {setting}={advice}" if advice else _help(kind, setting)
    if meant := _meant(details, setting):
        hint = f"write {setting}={meant}, if that is meant. {hint}"
    return ErrorAndHint(f"{spot}: `{setting}={value}` {sentence}", hint)


def _meant(details: ErrorDetails, setting: str) -> str | None:
    """What a number above 1 probably means where a share is wanted: a percentage of a probability,
    the digits of a decay."""
    context = details.get("ctx", {})
    if 1 not in (context.get("lt"), context.get("le")):
        return None
    try:
        value = float(details["input"])
    except (TypeError, ValueError):
        return None
    share = "le" in context or "dropout" in setting
    return percent(value) if share else behind_the_point(value)


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
    text = docstring(kind, name) if field else ""
    silent = field is None or field.is_required() or isinstance(field.default, BaseModel)
    if field is not None and not silent and field.default not in (None, "", ()):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        text += f" Default: {default}."
    return text or "docs/reference/settings.md explains it"
