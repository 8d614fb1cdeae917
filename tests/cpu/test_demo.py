"""What `sd3tune demo` writes by default, and what `--judge` refuses. Learning: test_demo_script.py,
test_ten_rules.py."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sd3tune.demo import concept, judge, lesson, scenes, write
from sd3tune.demo.prompts_read import read
from sd3tune.errors import ConfigError
from tests.this_machine import prepared_here


@pytest.fixture(scope="module")
def painter_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painter") / "demo"
    write(folder)
    return folder


def test_the_dataset_shows_hearts_and_says_so(painter_demo: Path) -> None:
    files = sorted((painter_demo / "pictures").glob("*.png"))[:40]
    captions = [path.with_suffix(".txt").read_text().strip() for path in files]
    pictures = [Image.open(path) for path in files]
    assert {picture.size for picture in pictures} == {(64, 64)}
    assert judge.score(pictures, captions).right == 1.0
    assert {thing.shape for caption in captions for thing in read(caption).things} == {"heart"}


def test_the_prompts_are_not_in_the_dataset(painter_demo: Path) -> None:
    captions = {
        path.read_text().strip() for path in (painter_demo / "pictures").glob("heart-*.txt")
    }
    prompts = concept.prompts()
    assert len(captions) == 160 and len(set(prompts)) == 24
    assert not captions & set(prompts)
    words = {word for caption in captions for word in caption.split()}
    assert not words & {"orange", "purple"}  # colours in which no heart is shown
    withheld = [p for p in prompts if {"orange", "purple"} & set(p.split())]
    assert len(withheld) == 8
    known = [thing.shape for prompt in concept.known_prompts() for thing in read(prompt).things]
    assert len(known) == 16 and len(set(known)) == 7 and "heart" not in known


def test_its_configuration_is_planned_without_a_warning(painter_demo: Path) -> None:
    plan = prepared_here(painter_demo / "config" / "config.json").plan
    assert Path(plan.model.source.base).name == "painter"
    assert plan.warnings == ()
    library = json.loads((painter_demo / "config" / "user_prompt_library.json").read_text())
    assert set(library.values()) <= set(concept.prompts())


def test_the_table_has_hearts_and_other_shapes_without_and_with_the_lora() -> None:
    def drawn(*shapes: str) -> lesson.Drawn:
        things = [scenes.Thing(shape, "red", "plain", (0.5, 0.5), 0.3) for shape in shapes]
        pictures = [scenes.draw(scenes.Scene("white", (thing,), ""), 64) for thing in things]
        return lesson.Drawn(tuple(pictures), judge.score(pictures, ["a red heart"] * len(shapes)))

    hearts = drawn("star", "star"), drawn("heart", "star")
    table = lesson.Lesson(hearts, hearts[::-1], Path("a.png"), Path("b.txt")).lines
    right = [line.split()[3:] for line in table if "shape and colour" in line]
    assert right == ["0 of 2 0 % 1 of 2 50 %".split(), "1 of 2 50 % 0 of 2 0 %".split()]


@pytest.mark.parametrize("kind, why", [("trained", "holds no LoRA"), ("none", "holds no demo")])
def test_only_a_trained_demo_is_judged(
    kind: str, why: str, painter_demo: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why) as e:
        lesson.judge(painter_demo if kind == "trained" else tmp_path)
    assert "sd3tune" in e.value.hint
