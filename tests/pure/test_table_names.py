"""Tables name images in many ways: one that fits is found, and nothing is guessed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.data.table_names import matched
from sd3tune.errors import DataError
from tests.image_folders import captions, found, picture, reasons

FILES = ("b/a red car.png", "b/cat.jpg", "z.v1.png", "café.png")
WAYS = {
    "stems": ("b/a red car", "b/cat", "z.v1", "café"),
    "paths of another machine": ("/mnt/x/b/a red car.png", "/mnt/x/b/cat.jpg", "/mnt/x/z.v1.png",
                                 "/mnt/x/café.png"),
    "paths of Windows": ("C:\\x\\b\\a red car.png", "C:\\x\\b\\cat.jpg", "C:\\x\\z.v1.png",
                         "C:\\x\\café.png"),
    "backslashes": ("b\\a red car.png", "b\\cat.jpg", ".\\z.v1.png", "café.png"),
    "base names": ("a red car.png", "cat.jpg", "z.v1.png", "café.png"),
    "stems of base names": ("a red car", "cat", "z.v1", "café"),
    "URL encoding": ("b/a%20red%20car.png", "b/cat.jpg", "z%2Ev1.png", "caf%C3%A9.png"),
    "addresses": ("https://x.org/i/b/a%20red%20car.png?k=1", "https://x.org/i/b/cat.jpg#k",
                  "file:///x/z.v1.png", "https://x.org/caf%C3%A9.png"),
    "upper case": ("B/A RED CAR.PNG", "b/cat.JPG", "Z.v1.png", "CAFÉ.png"),
    "accents in two parts": ("b/a red car.png", "b/cat.jpg", "z.v1.png", "cafe\u0301.png"),
}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in FILES:
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


def written(path: Path, rows: dict[str, str]) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps({"filename": n, "caption": c}) for n, c in rows.items()]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = pa.table({"filename": list(rows), "caption": list(rows.values())})
        parquet.write_table(table, path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f, delimiter=separator).writerows([("filename", "caption"), *rows.items()])
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_suffix", [True, False])
def test_each_row_finds_its_image_however_it_is_named(
    images: Path, tmp_path: Path, way: str, with_suffix: bool
) -> None:
    rows = {row: f"caption of {file}" for row, file in zip(WAYS[way], FILES, strict=True)}
    columns: dict[str, Any] = {"path": written(tmp_path / "t.csv", rows),
                               "identifier_includes_extension": with_suffix}  # fmt: skip
    got = found(images, caption_strategy="csv", csv=columns)
    assert captions(got) == {file: (f"caption of {file}",) for file in FILES}
    if not (way == "stems" and not with_suffix):
        assert any("names images in another way" in note for note in got.notes)
    assert "k=1" not in " ".join(got.notes)


def test_a_name_of_a_megabyte_is_not_shown_whole(images: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"x" * 1_000_000: "a", "b/cat.jpg": "b"})
    (note,) = found(images, caption_strategy="csv", csv={"path": path}).notes
    assert "xxx…`" in note and len(note) < 500


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_table_is_read(images: Path, tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"t{suffix}", {file: f"of {file}" for file in FILES})
    kind = "parquet" if suffix == ".parquet" else "csv"
    got = found(images, caption_strategy=kind, **{kind: {"path": path}})
    assert captions(got) == {file: (f"of {file}",) for file in FILES} and not got.notes
    with pytest.raises(DataError, match="has no column `text`"):
        found(images, caption_strategy=kind, **{kind: {"path": path, "caption_column": "text"}})


def test_a_line_that_is_not_json_is_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"filename": "b/cat.jpg", "caption": "x"}\n[1]\n')
    with pytest.raises(DataError, match="line 2 is not a JSON object"):
        found(images, caption_strategy="csv", csv={"path": tmp_path / "t.jsonl"})


def test_nothing_is_guessed_where_several_fit() -> None:
    two_files = matched(["cat.jpg"], ["a/cat.jpg", "b/cat.jpg"])
    assert not two_files.rows and "fits it and 1 more files" in two_files.several["a/cat.jpg"]
    two_rows = matched(["/x/cat.jpg", "/y/cat.jpg"], ["cat.jpg"])
    assert not two_rows.rows and "2 rows fit it" in two_rows.several["cat.jpg"]
    closer = matched(["/x/b/cat.jpg", "cat.jpg"], ["b/cat.jpg", "c/cat.jpg"])
    assert closer.rows == {"b/cat.jpg": ("/x/b/cat.jpg",), "c/cat.jpg": ("cat.jpg",)}
    assert not matched(["a/cat.jpg"], ["b/cat.jpg", "cat.png"]).rows
    spellings = matched(["b\\cat.jpg", "./b/cat.jpg"], ["b/cat.jpg"])
    assert spellings.rows == {"b/cat.jpg": ("b\\cat.jpg", "./b/cat.jpg")}
    stem = matched(["cat"], ["cat.jpg", "cat.png"])
    assert not stem.rows and set(stem.several) == {"cat.jpg", "cat.png"}


def test_an_error_gives_an_example_of_each_side(images: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"other/photo 1.png": "x", "other/photo 2.png": "y"})
    with pytest.raises(DataError) as e:
        found(images, caption_strategy="csv", csv={"path": path})
    assert "no row for 4 images, such as `b/a red car.png`" in str(e.value)
    assert "2 of its rows have no image, such as `other/photo 1.png`" in str(e.value)
    some = written(tmp_path / "u.csv", {"b/cat.jpg": "x", "other/photo 2.png": "y"})
    got = found(images, caption_strategy="csv", csv={"path": some})
    assert reasons(got)["café.png"] == "no row for it in the csv table"
    assert any("such as `b/a red car.png`; 1 of its rows have" in note for note in got.notes)


@pytest.mark.parametrize("way", [w for w in WAYS if w != "addresses"])
def test_rows_that_are_the_dataset_find_their_files_too(images: Path, way: str) -> None:
    rows = {row: f"caption of {file}" for row, file in zip(WAYS[way], FILES, strict=True)}
    path = written(images / "t.csv", rows)
    got = found(images, type="csv", caption_strategy="csv", csv={"path": path})
    assert sorted(captions(got).values()) == sorted((f"caption of {file}",) for file in FILES)
    assert any("is taken for" in note for note in got.notes)


def test_rows_without_a_file_are_compared_with_what_is_there(images: Path) -> None:
    path = written(images / "t.csv", {"cat.jpg": "x", "nothing.png": "y", "../images/z.v1": "z"})
    got = found(images, type="csv", caption_strategy="csv", csv={"path": path})
    assert reasons(got) == {"nothing.png": "cannot be read: No such file or directory"}
    assert any("such as `nothing.png`; 2 images there have no row" in note for note in got.notes)
