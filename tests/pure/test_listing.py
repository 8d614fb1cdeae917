"""Folders that cannot be listed: nothing in them is left out without a word."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd3tune.data.discover import discover
from sd3tune.data.folder import Folder
from sd3tune.data.sources import source_of
from sd3tune.errors import DataError
from tests.image_folders import captions, dataset, found, picture, reasons


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b/cat.jpg", "z.png"):
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bite root: the refusal comes from the call that would meet it."""
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_set_aside_with_the_reason(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(images / "b", monkeypatch)
    got = found(images)
    assert set(captions(got)) == {"z.png"}
    assert reasons(got) == {"b": "this folder cannot be listed: Permission denied"}
    assert got.rejected[0].path == str(images / "b")
    with pytest.raises(DataError, match="b`: this folder cannot be listed: Permission denied"):
        found(images, strict=True)
    forbid(images, monkeypatch)
    with pytest.raises(DataError, match="this folder cannot be listed: Permission denied"):
        found(images)


def test_a_folder_removed_while_it_is_walked_is_set_aside(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def gone(path: str, **more: object) -> os.stat_result:
        if path == str(images / "b"):
            shutil.rmtree(path, ignore_errors=True)
        return stat(path)

    monkeypatch.setattr("sd3tune.data.folder.os.stat", gone)
    got = found(images)
    assert set(captions(got)) == {"z.png"}
    assert reasons(got) == {"b": "this folder cannot be listed: No such file or directory"}


def test_masks_in_a_folder_that_cannot_be_listed_say_so(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path / "masks")
    forbid(tmp_path / "masks" / "b", monkeypatch)
    settings = dataset(images, conditioning_data="m")
    got = discover(settings, source_of(settings), masks=Folder(tmp_path / "masks"))
    assert set(captions(got)) == {"z.png"}
    assert reasons(got)["b"] == "its masks: this folder cannot be listed: Permission denied"
