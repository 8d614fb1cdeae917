"""Reads the captions of images and changes them as the settings request, before they are encoded.

Source (file name, text file, table, setting) -> caption_filter_list -> caption_shuffle ->
prepend_instance_prompt. With several captions, training draws one each time. An image whose
captions are too long or too many is set aside.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING

from sd3tune.data.caption_files import CaptionFiles
from sd3tune.data.caption_filters import filters_of
from sd3tune.data.image_tables import TEXT_CHARACTERS, ImageRow, ImageTable, row
from sd3tune.urls import shown_url

if TYPE_CHECKING:
    from sd3tune.config.datasets.image_dataset import ImageDataset, Shuffle
    from sd3tune.data.sources import Source

MOST_CAPTIONS = 1000  # of one image; each is encoded by three text encoders
SEPARATORS = {"comma": (",", ", "), "space": (" ", " "), "period": (".", ". ")}


class NoCaption(Exception):
    """This image has no caption; the message states the reason. Discovery sets the image aside."""


class Captions:
    """The captions of the images of one dataset."""

    def __init__(
        self,
        dataset: "ImageDataset",
        source: "Source",
        table: ImageTable | None,
        files: CaptionFiles,
    ) -> None:
        self.dataset, self._source, self._table, self._files = dataset, source, table, files
        self._filters = filters_of(dataset)

    def of(self, name: str) -> tuple[str, ...]:
        """The captions of an image, one or more. Raises NoCaption."""
        d = self.dataset
        if d.only_instance_prompt or d.caption_strategy == "instanceprompt":
            return _limited((d.instance_prompt or "",))
        found = _limited(self._raw(name))
        if self._filters:
            found = tuple(filter(None, map(self._filters.changed, found)))
            if not found:
                raise NoCaption("caption_filter_list leaves nothing of its caption")
        if d.caption_shuffle and d.caption_shuffle.enable:
            _limit_count(len(found) * d.caption_shuffle.count)
            found = tuple(dict.fromkeys(s for c in found for s in shuffled(c, d.caption_shuffle)))
        if d.prepend_instance_prompt:
            found = tuple(f"{d.instance_prompt} {caption}" for caption in found)
        return _limited(found)

    def notes(self) -> Iterator[str]:
        """What a user should know about the sources of captions, after all were read."""
        yield from self._filters.notes()
        if self._table is not None:
            yield from self._table.notes(self.dataset.caption_strategy)

    def _raw(self, name: str) -> tuple[str, ...]:
        strategy = self.dataset.caption_strategy
        if strategy == "filename":
            return (from_name(name),)
        if strategy == "textfile":
            return self._from_files(name)
        if strategy == "huggingface":
            columns = self.dataset.huggingface
            none = f"its row has no {' or '.join(columns.caption_column)}"
            return _captions_of(row(self._source.cells(name), columns), none)
        assert self._table is not None  # settings see to it
        entry = self._table.get(name)
        if entry is None:
            raise NoCaption(self._table.reason(name, strategy))
        return _captions_of(entry, f"its row in the {strategy} table has no caption")

    def _from_files(self, image: str) -> tuple[str, ...]:
        first, *others = self._files.of(image)
        for name in (first, *others):
            try:
                return self._from_file(name)
            except FileNotFoundError:
                continue
        raise NoCaption(f"no caption file {PurePosixPath(first).name} beside it")

    def _from_file(self, name: str) -> tuple[str, ...]:
        file = PurePosixPath(name).name
        try:
            text = self._source.caption(name).decode("utf-8-sig")
        except FileNotFoundError:  # another one may exist
            raise
        except UnicodeDecodeError as e:
            raise NoCaption(f"caption file {file} is not UTF-8 at byte {e.start}") from None
        except OSError as e:
            raise NoCaption(f"caption file {file} cannot be read: {e.strerror or e}") from None
        lines = [" ".join(line.split()) for line in text.replace("\0", " ").splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            raise NoCaption(f"caption file {file} is empty")
        return (" ".join(lines),) if self.dataset.disable_multiline_split else tuple(lines)


def _captions_of(entry: ImageRow, none: str) -> tuple[str, ...]:
    """The captions of a row. none: the reason if there are none. Raises NoCaption."""
    if entry.too_long:
        raise NoCaption(_too_long(entry.too_long))
    if not entry.captions:
        raise NoCaption(none)
    return entry.captions


def _limited(captions: tuple[str, ...]) -> tuple[str, ...]:
    """The same captions. Raises NoCaption if they are too many or one is too long."""
    _limit_count(len(captions))
    if (longest := max(map(len, captions))) > TEXT_CHARACTERS:
        raise NoCaption(_too_long(longest))
    return captions


def _limit_count(count: int) -> None:
    if count > MOST_CAPTIONS:
        raise NoCaption(f"it has {count:,} captions; the limit is {MOST_CAPTIONS:,}")


def _too_long(characters: int) -> str:
    return f"its caption has {characters:,} characters; the limit is {TEXT_CHARACTERS:,}"


def from_name(name: str) -> str:
    """The caption in a file name: its stem, with blanks for underscores. The query of an address is
    ignored, because it may hold a token. Raises NoCaption for a name that is not text."""
    last = shown_url(name).rstrip("/").rpartition("/")[2]
    stem, _, suffix = last.rpartition(".")
    caption = " ".join((stem if stem and suffix else last).replace("_", " ").split())
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
