"""Reads the captions of images and changes them as the settings request, before they are encoded.

Source (file name, text file, table, setting) -> caption_filter_list -> caption_shuffle ->
prepend_instance_prompt. With several captions, training draws one each time.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from random import Random
from typing import TYPE_CHECKING

from sd3tune.data.image_tables import ImageTable, row
from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening
from sd3tune.urls import shown_url

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset, Shuffle
    from sd3tune.data.sources import Source

LIST_BYTES = 16 * 2**20  # largest caption_filter_list
Change = Callable[[str], str]
SEPARATORS = {"comma": (",", ", "), "space": (" ", " "), "period": (".", ". ")}
EMPTY_TAGS = re.compile(r"\s*,(?:\s*,)+")  # commas around a tag that a filter removed
REPLACE = re.compile(r"s/((?:[^/\\]|\\.)*)/((?:[^/\\]|\\.)*)/?")


class NoCaption(Exception):
    """This image has no caption; the message states the reason. Discovery sets the image aside."""


class Captions:
    """The captions of the images of one dataset."""

    def __init__(self, dataset: "ImageDataset", source: "Source", table: ImageTable | None) -> None:
        self.dataset, self._source, self._table = dataset, source, table
        self._changes = changes(dataset)

    def of(self, name: str) -> tuple[str, ...]:
        """The captions of an image, one or more. Raises NoCaption."""
        d = self.dataset
        if d.only_instance_prompt or d.caption_strategy == "instanceprompt":
            return (d.instance_prompt or "",)
        found = self._raw(name)
        if self._changes:
            found = tuple(filter(None, (self._changed(c) for c in found)))
            if not found:
                raise NoCaption("caption_filter_list leaves nothing of its caption")
        if d.caption_shuffle and d.caption_shuffle.enable:
            found = tuple(dict.fromkeys(s for c in found for s in shuffled(c, d.caption_shuffle)))
        if d.prepend_instance_prompt:
            found = tuple(f"{d.instance_prompt} {caption}" for caption in found)
        return found

    def _raw(self, name: str) -> tuple[str, ...]:
        strategy = self.dataset.caption_strategy
        if strategy == "filename":
            return (from_name(name),)
        if strategy == "textfile":
            return self._from_file(str(PurePosixPath(name).with_suffix(".txt")))
        if strategy == "huggingface":
            columns = self.dataset.huggingface
            found = row(self._source.cells(name), columns).captions
            if not found:
                raise NoCaption(f"its row has no {' or '.join(columns.caption_column)}")
            return found
        entry = self._table.get(name) if self._table else None
        if entry is None:
            raise NoCaption(f"no row for it in the {strategy} table")
        if not entry.captions:
            raise NoCaption(f"its row in the {strategy} table has no caption")
        return entry.captions

    def _from_file(self, name: str) -> tuple[str, ...]:
        file = PurePosixPath(name).name
        try:
            text = self._source.caption(name).decode("utf-8-sig")
        except FileNotFoundError:
            raise NoCaption(f"no caption file {file} beside it") from None
        except UnicodeDecodeError as e:
            raise NoCaption(f"caption file {file} is not UTF-8 at byte {e.start}") from None
        except OSError as e:
            raise NoCaption(f"caption file {file} cannot be read: {e.strerror or e}") from None
        lines = [" ".join(line.split()) for line in text.replace("\0", " ").splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            raise NoCaption(f"caption file {file} is empty")
        return (" ".join(lines),) if self.dataset.disable_multiline_split else tuple(lines)

    def _changed(self, caption: str) -> str:
        left = caption
        for change in self._changes:
            left = change(left)
        if left != caption:
            left = EMPTY_TAGS.sub(",", left)
        return " ".join(left.split()).strip(" ,")


def from_name(name: str) -> str:
    """The caption in a file name: its stem, with blanks for underscores. The query of an address is
    ignored, because it may hold a token. Raises NoCaption for a name that is not text."""
    caption = " ".join(PurePosixPath(shown_url(name)).stem.replace("_", " ").split())
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise NoCaption("its name is not UTF-8, and the caption would be made of it") from None
    if not caption:
        raise NoCaption("its name leaves no caption")
    return caption


def shuffled(caption: str, how: "Shuffle") -> list[str]:
    """Captions with the tags of `caption` in other orders; a pure function of caption and seed."""
    split, join = SEPARATORS[how.split_on]
    tags = [t.strip() for t in caption.split(split) if t.strip()]
    first, rest = tags[: how.position_start], tags[how.position_start :]
    dice = Random(f"caption {how.seed} {caption}")
    found = [caption] if how.include_original else []
    for _ in range(how.count):
        dice.shuffle(rest)
        found.append(join.join(first + rest))
    return found


def changes(dataset: "ImageDataset") -> list[Change]:
    """One function for each entry of caption_filter_list. Raises ConfigError."""
    asked = dataset.caption_filter_list
    where = f"dataset `{dataset.id}`: caption_filter_list"
    entries = _read(asked, where) if isinstance(asked, Path) else asked or ()
    return [_change(entry, where) for entry in entries]


def _change(entry: str, where: str) -> Change:
    """The function of one entry: `s/this/that/` replaces. Any other entry is removed, both as plain
    text and as a regular expression."""
    replace = REPLACE.fullmatch(entry)
    pattern, new = replace.groups() if replace else (entry, "")
    try:
        expression = re.compile(pattern)
        expression.sub(new, "")
    except (re.error, IndexError) as e:
        if replace is None:
            return lambda caption: caption.replace(entry, "")
        raise ConfigError(
            f"{where}: `{entry}` is not a valid regular expression: {e}",
            hint="put a backslash before special characters that are meant literally",
        ) from None
    if replace is not None:
        return lambda caption: expression.sub(new, caption)
    return lambda caption: expression.sub("", caption.replace(entry, ""))


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
    return [e for e in entries if e.strip()]
