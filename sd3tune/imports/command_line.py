"""A command line that starts a trainer, as people keep it in .sh and .bat files.

Continued lines, quotes, comments and variables that the file sets are understood. Nothing is
executed: `$(...)` and backticks in the command are refused.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from sd3tune.config.files.reading import literal
from sd3tune.errors import ConfigError

OPTION = re.compile(r"(?:^|\s)--[A-Za-z]")
SCRIPT = re.compile(r"[\w./\\:~%${}-]+\.py\b")
SET = re.compile(
    r"^\s*(?:export\s+|set\s+|\$env:|declare\s+(?:-x\s+)?)?\"?([A-Za-z_]\w*)\s*=(.*)$", re.I
)
COMMENT = re.compile(r"^\s*(?:#|::|@?rem\b|@echo\b)", re.I)
VARIABLE = re.compile(r"\$\{(\w+)\}|\$(?:env:)?([A-Za-z_]\w*)|%([A-Za-z_]\w*)%")
CONTINUED = re.compile(r"[\\^`]\s*$")
CONTROL = {"&&", "||", ";", "|", "&", ">", ">>", "2>", "2>&1", "<"}


@dataclass(frozen=True)
class Command:
    """script: the file name of the program. options: of the script, by name without dashes; a flag
    is True, several values are a list. launcher: options before the script. words: what stands
    between options. unset: variables that nothing in the file sets."""

    script: str
    options: dict[str, Any]
    launcher: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()


def looks_like_one(text: str) -> bool:
    """Whether the text holds a command with options for a Python program, or options alone."""
    lines = [line for line in text.splitlines() if not COMMENT.match(line)]
    options = sum(len(OPTION.findall(line)) for line in lines)
    starts = any(re.match(r"\s*--[A-Za-z]", line) for line in lines[:3])
    return options > 0 and (bool(SCRIPT.search("\n".join(lines))) or starts)


def read(text: str, where: str) -> Command:
    """The first command that starts a Python program with options. Raises ConfigError."""
    variables: dict[str, str] = {}
    unset: list[str] = []
    for line in _joined(text):
        if (found := SET.match(line)) and not OPTION.search(line):
            value = found[2].strip().rstrip('"') if found[2].count('"') % 2 else found[2].strip()
            variables[found[1]] = _expanded(value.strip("\"'"), variables, [])
        elif OPTION.search(line):
            whole = _expanded(line, variables, unset)
            _refuse_substitution(whole, where)
            return _command(_split(whole, where), tuple(dict.fromkeys(unset)), where)
    raise ConfigError(f"{where}: no command with options was found", hint="give the whole command")


def _joined(text: str) -> list[str]:
    """Lines with the ones that continue them; comments and empty lines left out."""
    lines: list[str] = []
    open_line = False
    for raw in text.splitlines():
        if COMMENT.match(raw):
            continue
        goes_on = bool(CONTINUED.search(raw))
        line = CONTINUED.sub("", raw).strip() if goes_on else raw.strip()
        bare = re.match(r"--[A-Za-z]", line) and lines and OPTION.search(lines[-1])
        if open_line or bare:
            lines[-1] += " " + line
        elif line:
            lines.append(line)
        open_line = goes_on and bool(lines)
    return lines


def _expanded(line: str, variables: dict[str, str], unset: list[str]) -> str:
    """The line with the variables that the file has set. unset: gets the others."""

    def value(match: re.Match[str]) -> str:
        name = next(group for group in match.groups() if group)
        if name in variables:
            return variables[name]
        unset.append(name)
        return match[0]

    return VARIABLE.sub(value, line)


def _refuse_substitution(line: str, where: str) -> None:
    if "$(" in line or re.search(r"`[^`]+`", line):
        raise ConfigError(
            f"{where}: a part of the command is the output of another command",
            hint="write its value in place of `$(...)` or backticks; nothing is executed here",
        )


def _split(line: str, where: str) -> list[str]:
    windows = bool(re.search(r"[A-Za-z]:\\|\w\\\w", line))
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if windows:  # a backslash separates folders there
        lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError as e:
        raise ConfigError(f"{where}: {str(e).lower()}", hint="close the quotes") from None
    ends = [i for i, word in enumerate(words) if word in CONTROL and _has_options(words[:i])]
    return words[: ends[0]] if ends else words


def _has_options(words: list[str]) -> bool:
    return any(word.startswith("--") for word in words)


def _command(words: list[str], unset: tuple[str, ...], where: str) -> Command:
    places = [i for i, word in enumerate(words) if word.endswith(".py") and word[:1] != "-"]
    at = places[0] if places else -1
    launcher, _ = _options(words[:at] if at > 0 else [])
    options, between = _options(words[at + 1 :])
    name = words[at] if places else ""
    script = PureWindowsPath(name).name if "\\" in name else PurePosixPath(name).name
    return Command(script, options, launcher, between, unset)


def _options(words: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options with their values, and the words that belong to none."""
    found: dict[str, list[str]] = {}
    between: list[str] = []
    current: list[str] | None = None
    for word in words:
        if re.match(r"--[A-Za-z]", word):
            name, equals, text = word[2:].partition("=")
            current = found[name.replace("-", "_")] = [text] if equals else []
        elif current is None:
            between.append(word)
        else:
            current.append(word)
    return {name: _value(name, texts) for name, texts in found.items()}, tuple(between)


TEXTS = ("prompt", "tokens", "name", "path", "dir", "args", "note", "caption", "comment")


def _value(name: str, texts: list[str]) -> Any:
    if not texts:
        return True
    if name.endswith("args"):
        return texts
    values = [t if name.endswith(TEXTS) else _python(t) for t in texts]
    return values[0] if len(values) == 1 else values


def _python(text: str) -> Any:
    """JSON, and Python's True and False."""
    if text in ("True", "False"):
        return text == "True"
    return literal(text)
