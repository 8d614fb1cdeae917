"""Captions: which files hold them, how filters are written, and what is too much."""

import csv
import json
from pathlib import Path

import pytest

from sd3tune.errors import ConfigError, DataError
from tests.image_folders import captions, found, picture, reasons


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b/c.jpg", "d.e.png"):
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


def test_caption_files_have_either_suffix_in_either_case(images: Path) -> None:
    for name, text in (("a.TXT", "upper"), ("b/c.caption", "other"), ("d.e.Txt", "dots")):
        (images / name).write_text(text)
    got = found(images, caption_strategy="textfile")
    assert captions(got) == {"a.png": ("upper",), "b/c.jpg": ("other",), "d.e.png": ("dots",)}
    (images / "a.caption").write_text("not this")
    (images / "a.txt").write_text("lower")
    assert captions(found(images, caption_strategy="textfile"))["a.png"] == ("lower",)


def test_a_caption_file_may_keep_the_suffix_of_its_image(images: Path) -> None:
    (images / "a.png.txt").write_text("kept")
    got = found(images, caption_strategy="textfile")
    assert captions(got) == {"a.png": ("kept",)}
    assert reasons(got)["c.jpg"] == "no caption file c.txt beside it"


@pytest.mark.parametrize(
    "settings",
    [{}, {"caption_strategy": "instanceprompt", "instance_prompt": "sks"},
     {"only_instance_prompt": True, "instance_prompt": "sks"}],
)  # fmt: skip
def test_caption_files_that_are_not_read_are_named(images: Path, settings: dict[str, str]) -> None:
    assert found(images, **settings).notes == ()
    (images / "a.txt").write_text("unread")
    (images / "b" / "c.CAPTION").write_text("unread")
    (note,) = found(images, **settings).notes
    assert note.startswith("caption files beside images are not read with caption_strategy=")
    assert "2 of them, such as `a.txt`" in note
    assert "set caption_strategy=textfile" in note
    assert found(images, caption_strategy="textfile").notes == ()


def test_a_table_that_is_not_read_is_named(images: Path) -> None:
    (images / "metadata.jsonl").write_text('{"filename": "a.png", "caption": "unread"}')
    (note,) = found(images).notes
    assert note.startswith("`metadata.jsonl` lies among the images and is not read")
    table = {"path": images / "metadata.jsonl"}
    assert captions(found(images, caption_strategy="csv", csv=table)) == {"a.png": ("unread",)}


@pytest.mark.parametrize(
    "entry, before, after",
    [
        ("c++", "a c++ cat", "a cat"),
        ("c++", "cats and dogs", "cats and dogs"),
        (".", "a. b", "a b"),
        ("(red)", "a (red) cat, red", "a cat, red"),
        ("?", "who? me", "who me"),
        ("[0-9]k", "a 4k photo", "a 4k photo"),
        ("/[0-9]k/", "a 4k photo", "a photo"),
        ("/[0-9]K/i", "a 4k photo", "a photo"),
        (r"\b\dk\b", "a 4k photo, 4kb", "a photo, 4kb"),
        (r"c\+\+", "a c++ cat", "a cat"),
        (r"C:\new", r"at C:\new now", r"at C:\new now"),  # \n: a valid pattern, of another text
        (r"\o/", r"a cat \o/", "a cat"),  # not a valid pattern
        ("s/cat/dog/", "a cat", "a dog"),
        ("s/cat/dog", "a cat", "a dog"),
        ("s/CAT/dog/gi", "a cat, Cat", "a dog, dog"),
        (r"s/(\w+) cat/\1 dog/", "a grey cat", "a grey dog"),
        (r"s/a\/b/c\/d/", "an a/b", "an c/d"),
        ("s/^/photo of /", "a cat", "photo of a cat"),
        ("s/he", "s/he walks", "walks"),
        ("and/or", "this and/or that", "this that"),
    ],
)
def test_an_entry_is_text_unless_it_is_written_as_a_pattern(
    images: Path, entry: str, before: str, after: str
) -> None:
    (images / "a.txt").write_text(before)
    got = found(images, caption_strategy="textfile", caption_filter_list=[entry])
    assert captions(got) == {"a.png": (after,)}


@pytest.mark.parametrize(
    "entry, message",
    [
        ("s/a/b/c/", "is not of the form s/this/that/"),
        ("s/a/b/x", "is not of the form s/this/that/"),
        ("s//b/", "is not of the form s/this/that/"),
        ("s|a|b|", "has another separator than /"),
        ("s/(/b/", "is not a valid regular expression"),
        (r"s/a/\1/", "is not a valid regular expression"),
        ("/[/", "is not a valid regular expression"),
    ],
)
def test_an_entry_that_would_do_nothing_is_an_error(images: Path, entry: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        found(images, caption_filter_list=[entry])
    assert f"caption_filter_list: `{entry}` {message}" in str(e.value) and e.value.hint


def test_a_text_that_looks_like_a_pattern_and_matches_nothing_is_named(images: Path) -> None:
    (images / "a.txt").write_text("a 4k photo")
    got = found(
        images, caption_strategy="textfile", caption_filter_list=["[0-9]k", "(o)", "o?", "4k"]
    )
    (note,) = got.notes
    assert "`[0-9]k` is plain text and in no caption" in note and "`/[0-9]k/`" in note
    got = found(images, caption_strategy="textfile", caption_filter_list=["photo|video", "8k|hd"])
    (note,) = got.notes
    assert "`/photo|video/`, it would match" in note


LONG = "its caption has {:,} characters; the limit is 65,536"


@pytest.mark.parametrize("count", [65_537, 131_073, 1_500_000, 5_000_000])
def test_a_caption_that_is_too_long_sets_its_image_aside_and_not_the_table(
    images: Path, tmp_path: Path, count: int
) -> None:
    rows = [("a.png", "x" * count), ("b/c.jpg", 'fine, "quoted"\nand of two lines'),
            ("d.e.png", "y" * 65_536)]  # fmt: skip
    with (tmp_path / "t.csv").open("w", newline="") as f:
        csv.writer(f).writerows([("filename", "caption"), *rows])
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"filename": n, "caption": c}) + "\n" for n, c in rows)
    )
    for name in ("t.csv", "t.jsonl"):
        got = found(images, caption_strategy="csv", csv={"path": tmp_path / name})
        assert reasons(got) == {"a.png": LONG.format(count)}
        assert captions(got)["b/c.jpg"] == ('fine, "quoted" and of two lines',)
    assert csv.field_size_limit() == 131_072


def test_caption_files_and_prompts_have_the_same_limit(images: Path) -> None:
    (images / "a.txt").write_text("x" * 70_000)
    (images / "b" / "c.txt").write_text("fine")
    got = found(images, caption_strategy="textfile")
    assert reasons(got)["a.png"] == LONG.format(70_000) and set(captions(got)) == {"b/c.jpg"}
    with pytest.raises(DataError, match="70,000 characters"):
        found(images, instance_prompt="x" * 70_000, only_instance_prompt=True)


def test_an_image_has_a_thousand_captions_at_most(images: Path) -> None:
    (images / "a.txt").write_text("\n".join(map(str, range(1001))))
    (images / "b" / "c.txt").write_text("one, two\nthree, four")
    got = found(images, caption_strategy="textfile")
    assert reasons(got)["a.png"] == "it has 1,001 captions; the limit is 1,000"
    assert len(captions(got)["b/c.jpg"]) == 2
    with pytest.raises(DataError, match="it has 2,000,000,000 captions"):
        found(images, caption_strategy="textfile", caption_shuffle={"count": 10**9})
