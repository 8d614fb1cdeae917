"""The line of each key of a JSON or TOML document, which the parsers do not tell."""

import json
import re
from collections.abc import Container

BLANK = re.compile(r"[ \t\r\n]*")
TOML_KEY = re.compile(r"""[ \t]*\[?[ \t]*(?:"([^"]+)"|'([^']+)'|([\w-]+))[ \t]*[.=\]]""")
DECODER = json.JSONDecoder()


def json_lines(text: str, inside: str | None = None) -> dict[str, int]:
    """Key -> line, from 1; nothing where all is on one line. text: a JSON object that can be read.
    inside: the key whose value is the object that is meant; None: the document itself."""
    if "\n" not in text.strip():
        return {}
    keys = _members(text, 0)
    if inside is not None:
        keys = _members(text, keys[inside][1])
    return {key: text.count("\n", 0, at) + 1 for key, (at, _) in keys.items()}


def _members(text: str, at: int) -> dict[str, tuple[int, int]]:
    """Key -> where it begins, and where its value begins. at: where the object begins."""
    keys: dict[str, tuple[int, int]] = {}
    at = _behind_blanks(text, _behind_blanks(text, at) + 1)
    while text[at] != "}":
        begins = at
        key, at = DECODER.raw_decode(text, at)
        value_at = _behind_blanks(text, _behind_blanks(text, at) + 1)
        keys[key] = begins, value_at
        _, at = DECODER.raw_decode(text, value_at)
        at = _behind_blanks(text, at)
        at = _behind_blanks(text, at + 1) if text[at] == "," else at
    return keys


def _behind_blanks(text: str, at: int) -> int:
    match = BLANK.match(text, at)
    return match.end() if match else at


def toml_lines(text: str, keys: Container[str]) -> dict[str, int]:
    """Key -> line, from 1. text: a TOML document that can be read. keys: those of the document
    itself."""
    found: dict[str, int] = {}
    lines = text.split("\n")
    several = '"""' in text or "'''" in text  # texts of several lines may look like keys
    for number, line in enumerate(lines, 1):
        match = TOML_KEY.match(line)
        key = match and (match[1] or match[2] or match[3])
        new = key is not None and key in keys and key not in found
        if key and new and not (several and _cut("\n".join(lines[: number - 1]))):
            found[key] = number
    return found


def _cut(text: str) -> bool:
    """Whether a document ends inside a value."""
    import tomllib

    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return True
    return False
