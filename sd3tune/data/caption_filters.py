r"""caption_filter_list: what is removed from captions or replaced in them.

An entry is plain text, unless it is written as a pattern (a regular expression):

    /pattern/         is removed
    s/pattern/new/    is replaced; `s/pattern/new/i` in upper and lower case
    \bword\b          an expression with a backslash is removed, as SimpleTuner does
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset

LIST_BYTES = 16 * 2**20  # largest caption_filter_list
EMPTY_TAGS = re.compile(r"\s*,(?:\s*,)+")  # commas around a tag that a filter removed
FLAGS = {"g": 0, "i": re.IGNORECASE}  # sed's; every match is replaced in any case
# A set of characters, repeated dots, a beginning or an end, alternatives; not c++, (red) or who?
LIKE_A_PATTERN = re.compile(r"\[.+\]|\.[*+]|^\^|\$$|\w\|\w|\(.*\|.*\)|\(\?")
OTHER_SEPARATOR = re.compile(r"s([|#])(?:(?!\1).)+\1(?:(?!\1).)*\1[a-z]*")


class CaptionFilter:
    """One entry. pattern: None for plain text."""

    def __init__(self, entry: str, pattern: re.Pattern[str] | None = None, new: str = "") -> None:
        self.entry, self._pattern, self._new = entry, pattern, new
        self._found = self._missed = False

    def changed(self, caption: str) -> str:
        """The caption without this text, or with the replacement."""
        if self._pattern is not None:
            return self._pattern.sub(self._new, caption)
        if self.entry in caption:
            self._found = True
            return caption.replace(self.entry, "")
        self._missed = self._missed or (not self._found and _matches(self.entry, caption))
        return caption

    def note(self) -> str | None:
        """A sentence if the entry is in no caption, but would match as a pattern."""
        if self._found or not self._missed:
            return None
        return (
            f"caption_filter_list: `{self.entry}` is plain text and in no caption; as a pattern, "
            f"`/{self.entry}/`, it would match"
        )


class CaptionFilters:
    """The entries of a dataset."""

    def __init__(self, filters: Sequence[CaptionFilter]) -> None:
        self._filters = filters

    def __bool__(self) -> bool:
        return bool(self._filters)

    def changed(self, caption: str) -> str:
        """The caption after all entries; a tag that became empty goes with its comma."""
        left = caption
        for one in self._filters:
            left = one.changed(left)
        if left != caption:
            left = EMPTY_TAGS.sub(",", left)
        return " ".join(left.split()).strip(" ,")

    def notes(self) -> Iterator[str]:
        """What a user should know about entries, after all captions were read."""
        return (note for one in self._filters if (note := one.note()) is not None)


def filters_of(dataset: "ImageDataset") -> CaptionFilters:
    """The filters of a dataset. Raises ConfigError."""
    asked = dataset.caption_filter_list
    where = f"dataset `{dataset.id}`: caption_filter_list"
    entries = _read(asked, where) if isinstance(asked, Path) else asked or ()
    return CaptionFilters([_filter(entry, where) for entry in entries if entry.strip()])


def _filter(entry: str, where: str) -> CaptionFilter:
    parts = _split(entry)
    if parts[0] == "s" and len(parts) > 2:
        return _replacement(entry, parts, where)
    if OTHER_SEPARATOR.fullmatch(entry):
        raise _error(f"{where}: `{entry}` has another separator than /", "write s/this/that/")
    if parts[0] == "" and len(parts) == 3 and parts[1] and set(parts[2]) <= FLAGS.keys():
        return CaptionFilter(entry, _compiled(parts[1], parts[2], "", f"{where}: `{entry}`"))
    if "\\" in entry:
        try:
            return CaptionFilter(entry, re.compile(entry))
        except re.error:  # a path of Windows, or a face
            return CaptionFilter(entry)
    return CaptionFilter(entry)


def _replacement(entry: str, parts: Sequence[str], where: str) -> CaptionFilter:
    """`s/this/that/` in its parts. Raises ConfigError."""
    _, pattern, new, *rest = parts
    if len(rest) > 1 or not set("".join(rest)) <= FLAGS.keys() or not pattern:
        raise _error(
            f"{where}: `{entry}` is not of the form s/this/that/",
            "write \\/ for a slash of the text; only g and i may follow the last slash",
        )
    new = new.replace("\\/", "/")
    expression = _compiled(pattern, "".join(rest), new, f"{where}: `{entry}`")
    return CaptionFilter(entry, expression, new)


def _compiled(pattern: str, flags: str, new: str, what: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern, sum(FLAGS[f] for f in set(flags)))
        expression.sub(new, "")
    except (re.error, IndexError) as e:
        raise _error(
            f"{what} is not a valid regular expression: {e}",
            "put a backslash before special characters that are meant literally",
        ) from None
    return expression


def _split(entry: str) -> list[str]:
    """The parts between slashes that have no backslash before them."""
    parts, characters = [""], iter(entry)
    for c in characters:
        if c == "/":
            parts.append("")
        else:
            parts[-1] += c + next(characters, "") if c == "\\" else c
    return parts


def _matches(entry: str, caption: str) -> bool:
    """Whether an entry that is plain text looks like a pattern and would match as one."""
    if not LIKE_A_PATTERN.search(entry):
        return False
    try:
        return bool((match := re.search(entry, caption)) and match.group())
    except re.error:
        return False


def _error(message: str, hint: str) -> ConfigError:
    return ConfigError(message, hint=hint)


def _read(path: Path, where: str) -> Sequence[str]:
    try:
        with opening.opened(path, LIST_BYTES) as f:
            text = f.read().decode("utf-8-sig")
        entries = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as e:
        why = getattr(e, "strerror", None) or e
        raise ConfigError(
            f"{where}: `{path}` cannot be read: {why}", hint="check the path"
        ) from None
    if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
        raise ConfigError(
            f"{where}: `{path}` does not hold a list of strings", hint='write ["…", "…"]'
        )
    return entries
