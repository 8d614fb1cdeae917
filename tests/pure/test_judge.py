"""The judge of the demo's pictures, tried on scenes whose content is known.

The world draws them; the judge shares no code with it. Figures of 800 scenes at 64 px, 160 each
as drawn, blurred (1 px), noisy (8 of 255), as JPEG 85, and halved in size and enlarged again: see
the assertions, which are the promises; what was measured was 100 % of shapes, colours and counts.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sd3tune.demo import scenes
from sd3tune.demo.judge import Judgement, answers, said, score
from sd3tune.demo.prompts_read import read
from sd3tune.demo.recognition import judged
from sd3tune.demo.verdict_sheet import CELL, sheet
from sd3tune.errors import ConfigError

EVERYTHING = scenes.SceneWords(scenes.SHAPES, tuple(scenes.COLOURS), scenes.TEXTURES, ())


def noisy(picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture, float)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def compressed(picture: Image.Image) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return Image.open(file)


def coarse(picture: Image.Image) -> Image.Image:
    half = picture.resize((picture.width * 5 // 8,) * 2, Image.Resampling.BICUBIC)
    return half.resize(picture.size, Image.Resampling.BICUBIC)


DEGRADED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as drawn": lambda picture: picture,
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
    "noisy": noisy,
    "compressed": compressed,
    "coarse": coarse,
}


@dataclass(frozen=True)
class Case:
    scene: scenes.Scene
    judgement: Judgement


def cases(seed: int, count: int, side: int = 64) -> Iterator[Case]:
    made = list(scenes.scenes(seed, count, EVERYTHING))
    ways = list(DEGRADED.values())
    pictures = [ways[i % len(ways)](scenes.draw(s, side)) for i, s in enumerate(made)]
    verdicts = score(pictures, [s.caption for s in made]).verdicts
    return (Case(*pair) for pair in zip(made, verdicts, strict=True))


def share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers)


def assert_the_judge_is_right(tried: Sequence[Case]) -> None:
    for name, least in {"shape": 0.99, "colour": 0.99, "count": 0.99, "size": 0.97,
                        "position": 0.97, "background": 0.99, "texture": 0.85}.items():  # fmt: skip
        given = [c.judgement.answers[name] for c in tried if name in c.judgement.answers]
        assert share(given) >= least, (name, share(given))


def test_the_judge_sees_what_is_drawn() -> None:
    assert_the_judge_is_right(list(cases(1, 80)))


@pytest.mark.slow
@pytest.mark.parametrize("side", (64, 96, 128))
def test_the_judge_is_right_about_each_concept_and_rarely_says_yes_to_a_wrong_prompt(
    side: int,
) -> None:
    tried = list(cases(2, 800 if side == 64 else 300, side))
    assert_the_judge_is_right(tried)
    for concept in ("heart", "crescent", "turquoise"):
        known = [c.judgement.is_right for c in tried if concept in c.scene.caption]
        assert len(known) > 30 and share(known) >= 0.99, concept
    wrong = [bool(yes) for yes in wrong_prompts(tried)]
    assert len(wrong) > 3000 and share(wrong) <= 0.01


def wrong_prompts(tried: Sequence[Case]) -> Iterator[bool]:
    """For prompts of other scenes with the same form but another shape or colour: whether the judge
    says yes."""
    rng = random.Random(0)
    for case in tried:
        shapes = {t.shape for t in case.scene.things}
        colours = {t.colour for t in case.scene.things}
        for other in rng.choices(tried, k=30):
            things = other.scene.things
            if {t.shape for t in things} - shapes or {t.colour for t in things} - colours:
                seen = case.judgement.seen
                given = answers(other.scene.caption, seen)
                yield given["shape"] and given["colour"]


def test_every_shape_in_every_colour_on_every_background_is_named() -> None:
    """Alone, in the middle, as drawn."""
    triples = list(product(scenes.SHAPES, scenes.COLOURS, scenes.BACKGROUNDS))
    for shape, colour, background in triples[::7]:
        thing = scenes.Thing(shape, colour, "plain", (0.5, 0.5), 0.22)
        picture = scenes.draw(scenes.Scene(background, (thing,), ""), 64)
        assert said(judged(picture)) == f"{colour} {shape} on {background}"


NOTHING: dict[str, Callable[[], Image.Image]] = {
    "white": lambda: Image.new("RGB", (64, 64), "white"),
    "red": lambda: Image.new("RGB", (64, 64), "red"),
    "noise": lambda: Image.fromarray(dice().integers(0, 255, (64, 64, 3), dtype=np.uint8)),
    "faint noise": lambda: Image.fromarray(dice().integers(120, 160, (64, 64, 3), dtype=np.uint8)),
    "clouds": lambda: Image.fromarray(dice().integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize(
        (64, 64), Image.Resampling.BICUBIC
    ),
    "a gradient": lambda: Image.linear_gradient("L").resize((64, 64)),
}


def dice() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("name", NOTHING)
def test_an_empty_or_noisy_picture_shows_nothing(name: str) -> None:
    seen = judged(NOTHING[name]())
    assert seen.things == () and not answers("a red circle", seen)["shape"]


def test_a_missing_or_additional_thing_makes_the_count_wrong() -> None:
    red = scenes.Thing("star", "red", "plain", (0.28, 0.5), 0.17)
    both = (red, scenes.Thing("star", "red", "plain", (0.72, 0.5), 0.17))
    one, two = (judged(scenes.draw(scenes.Scene("gray", t, ""), 64)) for t in ((red,), both))
    assert answers("two red stars", two) == {"count": True, "shape": True, "colour": True}
    assert answers("two red stars", one) == {"count": False, "shape": True, "colour": True}
    assert answers("a red star", two)["count"] is False
    assert answers("a red star above a red star", two)["shape"] is False  # they are side by side
    assert answers("a red star on the left", one)["position"] is True


def test_what_a_prompt_leaves_out_is_not_asked() -> None:
    assert read("A heart.").things[0].colour is None
    assert set(answers("a heart", judged(NOTHING["white"]()))) == {"count", "shape"}


@pytest.mark.parametrize(
    "prompt, why",
    [
        ("a photograph of a cat", "`cat` is not a shape"),
        ("a mauve star", "`mauve` is not a colour"),
        ("a red green star", "`green` is not a colour, texture or size, or is a second one"),
        ("red star", "`red` is not an article"),
        ("", "is not an article"),
    ],
)
def test_a_prompt_of_another_world_is_refused(prompt: str, why: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the prompt") as e:
        read(prompt)
    assert why in str(e.value) and e.value.hint


def test_every_caption_of_the_world_can_be_read() -> None:
    for scene in scenes.scenes(4, 300, EVERYTHING):
        asked = read(scene.caption)
        assert asked.count == len(scene.things)
        assert {d.shape for d in asked.things} == {t.shape for t in scene.things}
        assert {d.colour for d in asked.things} == {t.colour for t in scene.things}


def test_the_table_and_the_sheet_show_right_and_wrong() -> None:
    star = scenes.Thing("star", "red", "plain", (0.5, 0.5), 0.22)
    picture = scenes.draw(scenes.Scene("gray", (star,), ""), 64)
    both = score([picture, picture], ["a red star", "a blue star"])
    assert both.right == 0.5
    assert both.lines[0].split() == "shape and colour 1 of 2 50 %".split()
    assert both.counts == {"count": (2, 2), "shape": (2, 2), "colour": (1, 2)}
    drawn = sheet([picture, picture], both.verdicts)
    assert drawn.width > 2 * CELL and drawn.height > CELL
    # The picture is enlarged without new colours; the marks differ in colour.
    colours = {c for _, c in drawn.getcolors(1 << 20) or ()}
    assert {(220, 30, 35), (140, 140, 140)} <= colours
