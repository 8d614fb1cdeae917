"""JSON of strangers, cut to what a page can show: depth, lengths and numbers are bounded."""

import math
from typing import Any

MAX_TEXT = 20_000  # characters
MAX_ITEMS = 4_000  # of a list or an object
MAX_DEPTH = 8
MAX_NUMBER = 2**53  # a browser's numbers are exact up to here


def bounded(value: Any, depth: int = 0) -> Any:
    """The value with long texts cut, deep parts left out and numbers that JSON lacks as None."""
    match value:
        case str():
            return text(value)
        case bool() | None:
            return value
        case int() | float():
            return number(value)
        case dict() if depth < MAX_DEPTH:
            items = list(value.items())[:MAX_ITEMS]
            return {text(str(key)): bounded(each, depth + 1) for key, each in items}
        case list() if depth < MAX_DEPTH:
            return [bounded(each, depth + 1) for each in value[:MAX_ITEMS]]
    return None


def text(value: Any, longest: int = MAX_TEXT) -> str:
    """A text of at most `longest` characters; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return value if len(value) <= longest else f"{value[:longest]}…"


def number(value: Any) -> float | int | None:
    """A finite number that a browser can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) <= MAX_NUMBER else None
    return value if math.isfinite(value) else None


def step(value: Any) -> int | None:
    """A step of training: a whole number from 0; None for anything else."""
    count = number(value)
    return count if isinstance(count, int) and count >= 0 else None
