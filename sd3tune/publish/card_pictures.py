"""The validation pictures of a run as its model card shows them, with what they were drawn from."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sd3tune.data.run_folders import BASE_PICTURES, PICTURES
from sd3tune.errors import DataError
from sd3tune.filesystem import opening
from sd3tune.formats import picture_files
from sd3tune.formats.picture_recipe import OURS

MOST = 24  # pictures of a card; more are in the folder
LINK = re.compile(rf"\]\(((?:{PICTURES}|{BASE_PICTURES})/[^()\s]+)\)")  # of a picture in a card


@dataclass(frozen=True)
class GalleryPicture:
    """file, before: below output_dir, as a link takes them. before: the same picture of the base
    model. metadata: as in the picture's file; empty where it has none."""

    file: str
    before: str | None
    metadata: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.metadata.get("prompt", ""))


def gallery(output: Path, pictures: Sequence[Path], step: int) -> list[GalleryPicture]:
    """The pictures of the end of a run that are below output_dir, the first of them; those without
    a prompt last. step: of training."""
    shown = [path for path in pictures if path.is_relative_to(output) and opening.is_regular(path)]
    found = [
        GalleryPicture(link(output, path), _before(output, path, step), metadata(path))
        for path in shown
    ]
    return sorted(found, key=lambda picture: not picture.prompt)[:MOST]


def metadata(path: Path) -> dict[str, Any]:
    """The JSON inside a picture; empty where there is none or it cannot be read."""
    try:
        facts = opening.parsed(picture_files.texts_in(path).get(OURS, "{}"))
    except (DataError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def linked(card: str, output: Path) -> Iterator[Path]:
    """The pictures that a card links to, where they are regular files below output_dir's folders of
    pictures."""
    folders = [(output / name).resolve() for name in (PICTURES, BASE_PICTURES)]
    for part in dict.fromkeys(LINK.findall(card)):
        path = output / unquote(part)
        inside = any(path.resolve().is_relative_to(folder) for folder in folders)
        if inside and opening.is_regular(path):
            yield path


def link(output: Path, path: Path) -> str:
    """A file below output_dir, as a card links to it."""
    return quote(path.relative_to(output).as_posix())


def _before(output: Path, path: Path, step: int) -> str | None:
    """The picture of the base model with the same prompt, size and seed."""
    before = output / BASE_PICTURES / path.name.removeprefix(f"step_{step}_")
    return link(output, before) if opening.is_regular(before) else None
