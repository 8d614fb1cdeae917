"""Complaints about settings: one line that names file, key and value, one line on what to do."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sd3tune.config.names import ADVICE, LATER, REASONS, asks_for_nothing
from sd3tune.errors import ConfigError
from sd3tune.urls import redacted

CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key")  # never shown
COMMAND_LINE = "the command line"


def refuse_unknown(
    values: Mapping[str, Any],
    kind: type[BaseModel],
    path: Path,
    said: Mapping[str, Any],
    reasons: Mapping[str, str] = REASONS,
    whose: str = "",
) -> dict[str, Any]:
    """The settings `kind` has; names known elsewhere that ask for nothing are dropped, every other
    name is a ConfigError."""
    kept = {}
    for name, value in values.items():
        if name in kind.model_fields:
            kept[name] = value
        elif name not in reasons:
            raise _unknown(name, kind, where(name, path, said), whose)
        elif not asks_for_nothing(name, value):
            why = reasons[name]
            advice = "leave it out" + (" for now" if why == LATER else "")
            raise ConfigError(
                f"{where(name, path, said)}{whose}: `{name}={_shown_as(name, value)}` {why}",
                hint=ADVICE.get(why, advice),
            )
    return kept


def _unknown(name: str, kind: type[BaseModel], where: str, whose: str) -> ConfigError:
    close = get_close_matches(name, [*kind.model_fields, *REASONS], n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`?" if close else "docs/reference/settings.md lists them all"
    return ConfigError(f"{where}{whose}: unknown setting `{name}`", hint=hint)


def refusal(
    error: ValidationError,
    kind: type[BaseModel],
    path: Path,
    said: Mapping[str, Any],
    values: Mapping[str, Any],
    whose: str = "",
) -> ConfigError:
    """The first complaint of pydantic, as ours."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    spot = where(name, path, said) + whose
    if isinstance(values.get(name), dict):
        return _inside(first, kind, spot, values[name])
    if first["type"] == "missing":
        return ConfigError(f"{spot}: `{name}` is missing", hint=f"add it: {_help(kind, name)}")
    words = _words(first)
    if not name:  # a rule over several settings names them itself
        head, _, hint = words.partition("; ")
        return ConfigError(f"{spot}: {head}", hint=hint or "change one of them")
    value = _shown_as(name, values.get(name))
    words, _, advice = words.partition("; use ")
    hint = f"use {name}={advice}" if advice else _help(kind, name)
    return ConfigError(f"{spot}: `{name}={value}` {words}", hint=hint)


def _inside(
    first: ErrorDetails, kind: type[BaseModel], spot: str, value: Mapping[str, Any]
) -> ConfigError:
    """A complaint about a key of an object that is itself a setting's value."""
    name, key = str(first["loc"][0]), ".".join(str(part) for part in first["loc"][1:])
    hint = _help(kind, name)
    if not key:  # a rule over several keys names them itself
        return ConfigError(f"{spot}: `{name}`: {_words(first)}".replace("; ", ", "), hint=hint)
    if first["type"] == "missing":
        return ConfigError(f"{spot}: `{name}.{key}` is missing", hint=hint)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{spot}: `{name}` has no key `{shown(key)}`", hint=hint)
    words = _words(first)
    return ConfigError(f"{spot}: `{name}.{key}={shown(value.get(key))}` {words}", hint=hint)


def _shown_as(name: str, value: Any) -> str:
    return "…" if name in CREDENTIALS else shown(value)


def where(name: str, path: Path, said: Mapping[str, Any]) -> str:
    return COMMAND_LINE if name in said else f"`{path}`"


def shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = redacted(" ".join(text.split()))
    return text if len(text) <= 80 else text[:77] + "…"


def sound(text: str, where: str) -> str:
    """Text that can be written down again: JSON and command lines can hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: `{shown(ascii(text)[1:-1])}` is not valid Unicode", hint="write it as UTF-8"
        ) from None
    return text


def _words(first: ErrorDetails) -> str:
    kind, context = first["type"], first.get("ctx", {})
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
        words, key = limits[kind]
        return f"must be {words} {context[key]:g}"
    return first["msg"].lower()


def _help(kind: type[BaseModel], name: str) -> str:
    field = kind.model_fields.get(name)
    text = " ".join((field.description or "").split()) if field else ""
    silent = field is None or field.is_required() or isinstance(field.default, BaseModel)
    if field is not None and not silent and field.default not in (None, "", ()):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        text += f" Default: {default}."
    return text or "docs/reference/settings.md explains it"
