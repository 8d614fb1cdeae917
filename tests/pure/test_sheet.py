"""The contact sheet: captions in any script and of any length."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from sd3tune.data import lettering, sheet
from sd3tune.data.folder import Folder
from tests.image_folders import picture, shown
from tests.samples import sample

TEXTS = {
    "Latin": "a grey cat, café, Straße, łódź, Việt Nam",
    "Greek": "γκρι γάτα",
    "Cyrillic": "серый кот",
    "Hebrew": "חתול אפור",
    "Arabic": "قطة رمادية",
    "Devanagari": "हिन्दी में एक बिल्ली",
    "Tamil": "தமிழ் பூனை",
    "Thai": "แมวสีเทา",
    "Georgian": "კატა",
    "Khmer": "ប្រាសាទ",
    "Chinese": "一只灰色的猫在窗边",
    "Japanese": "猫が窓辺にいる",
    "Korean": "고양이가 창가에 있다",
    "emoji": "😀🐱🌅❤️👩‍👩‍👧🇩🇪",
    "signs": "→ ≤ ∞ ½ “x” … – €",
}
WIDE = 2000


def ink(text: str) -> bytes:
    return lettering.line(text, WIDE, "black", "white").tobytes()


@pytest.mark.parametrize("script", TEXTS)
def test_every_character_of_a_script_is_drawn_as_itself(script: str) -> None:
    text = TEXTS[script]
    composed = unicodedata.normalize("NFC", text)
    assert lettering.fitting(text, WIDE) == composed
    runs = lettering.runs(composed)
    written = "".join(run.text for run in runs)
    assert "\\" not in written and "?" not in written
    for run in runs:
        box = run.font.getmask("\U0010fffe")
        for c in run.text:
            if not (c.isspace() or unicodedata.category(c) in ("Cf", "Mn")):
                mask = run.font.getmask(c)
                assert (mask.size, bytes(mask)) != (box.size, bytes(box)), c
    letters = [c for c in dict.fromkeys(composed) if c.isalpha()]
    assert len({ink(c) for c in letters}) == len(letters)


def test_accents_written_in_two_parts_are_drawn_like_one() -> None:
    assert ink("cafe\u0301") == ink("caf\u00e9") != ink("cafe")


def test_what_no_font_has_is_an_escape() -> None:
    texts = ["a \ue000", "\U0010ffff b", "\x1b[31m", "\u202eevil"]
    for text, escape in zip(texts, ("\\ue000", "\\U0010ffff", "\\x1b", "\\u202e"), strict=True):
        drawn = "".join(run.text for run in lettering.runs(lettering.fitting(text, WIDE)))
        assert escape in drawn


@pytest.mark.parametrize("text", ["x", "猫", "word ", "e\u0301", "i", "\x00", "👍"])
def test_a_text_is_cut_to_the_width_whatever_its_length(text: str) -> None:
    short, long = text * 400, text * 750_000
    fitted = lettering.fitting(long, 240)
    assert fitted == lettering.fitting(short, 240) and fitted.endswith("...")
    assert sum(run.width for run in lettering.runs(fitted)) <= 240
    assert lettering.fitting("short", 240) == "short"


def test_a_pile_of_accents_stays_small() -> None:
    assert len(lettering.fitting("o" + "\u0301" * 250, WIDE)) <= 4


def test_a_sheet_has_every_image_and_its_caption(tmp_path: Path) -> None:
    samples = []
    for i, text in enumerate((*TEXTS.values(), "y" * 1_500_000)):
        picture(tmp_path / f"{i}.png")
        samples.append(replace(sample(f"{i}.png", (96, 64), bucket=(64, 64)), captions=(text, "b")))
    sheet.draw(tmp_path / "sheet.png", samples, {"d": Folder(tmp_path)}, {})
    whole = shown(tmp_path / "sheet.png")
    for i in range(len(samples)):
        left = sheet.GAP + i % 4 * (sheet.CELL + sheet.GAP)
        top = sheet.GAP + i // 4 * (sheet.CELL + sheet.LABEL + sheet.GAP) + sheet.CELL + 4
        last = top + 2 * lettering.LINE
        caption = whole.crop((left, last, left + sheet.CELL, last + lettering.LINE))
        text = samples[i].captions[0][:400] + " (+1)"
        wanted = lettering.line(text, sheet.CELL, sheet.INK, sheet.BACK)
        assert caption.tobytes() == wanted.tobytes(), i


def test_a_remark_takes_the_place_of_the_sizes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png", (64, 64))
    made = [sample("a.png", captions=("x",))]
    sources = {"d": Folder(tmp_path / "in")}
    drawn = {}
    for name, remarks in {
        "none": None, "loss": {("d", "a.png"): "loss 0.5"}, "other": {("d", "b.png"): "loss 0.5"},
    }.items():  # fmt: skip
        sheet.draw(tmp_path / f"{name}.png", made, sources, {}, remarks)
        drawn[name] = shown(tmp_path / f"{name}.png").tobytes()
    assert drawn["none"] == drawn["other"] != drawn["loss"]
