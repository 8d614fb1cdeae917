"""`sd3tune configure`: what an interview asks, what it takes, and what it writes."""

import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from sd3tune.configure.interview import Interview, Left, Talk, answers_given
from sd3tune.configure.questions import QUESTIONS
from sd3tune.configure.situation import Situation
from sd3tune.configure.terminal import Terminal
from sd3tune.prepare import prepare_run
from sd3tune.tables.presets import PRESETS
from tests.commands import ROOT, exit_code
from tests.interviews import BARE, CAPTIONED, ONE, Typist, interviewed, project, situation

On = Callable[[str], Situation]
CHIPS = ("rtx4060", "rtx4090", "mi300x", "m1", "m4-max", "t4")
LINES = (
    "", "", "", "b", "?", "1", "2", "3", "4", "99", "none", "20", "3 epochs", "subject: sks cat",
    "style", "full", "automatic", "lowest-vram", "stable", "8gb", "mac-64gb", "large", "medium",
    "models/small", BARE, ONE, CAPTIONED, "nowhere", "out/run", "a cat; a dog", "tensorboard",
    "wandb", "0", "-1", "\x1b[A",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def on(root: Path, scratch: Path) -> On:
    """Chip -> the situation on it. Tests share its plans, each of which is made once."""
    return cache(lambda chip: situation(root, chip, scratch))


def replayed(count: int, machines: Sequence[Situation]) -> None:
    """Interviews of random lines: each ends in a run that the planner accepts and that fits."""
    for seed in range(count):
        dice = random.Random(seed)
        lines = dice.choices(LINES, k=dice.randrange(25))
        answers, draft = interviewed(dice.choice(machines), Typist(lines))
        assert set(answers) == {q.name for q in QUESTIONS}, seed
        needs = draft.prepared.plan.memory.estimate.training
        assert needs <= (draft.prepared.plan.facts.tightest.room_bytes or 0), (seed, lines)


def test_random_interviews_end_in_runs_that_plan(on: On) -> None:
    replayed(5, [on("rtx4060")])


@pytest.mark.slow
def test_200_random_interviews_end_in_runs_that_plan(on: On) -> None:
    replayed(200, [*map(on, CHIPS)])


def test_enter_all_the_way_is_a_run_of_the_default_model(on: On) -> None:
    known = on("rtx4090")
    typist = Typist([])
    answers, draft = interviewed(known, typist)
    assert len(QUESTIONS) == 8 and "8 of 8" in typist.text
    assert answers["model"] == "stabilityai/stable-diffusion-3.5-medium"
    assert answers["dataset"] == CAPTIONED and answers["quality"] == "24gb"
    assert answers["purpose"] == "subject" and answers["length"] == "1200"
    config, datasets = draft.documents.config, draft.documents.datasets
    assert config["max_train_steps"] == 1200 and config["train_batch_size"] == 4
    images, masks, text = datasets
    assert images["caption_strategy"] == "textfile" and images["conditioning_data"] == "masks"
    assert masks["dataset_type"] == "conditioning" and text["default"] is True
    assert draft.documents.prompts == {
        "a-red-wall-number": "a red wall number 0, seen from below",
        "a-red-wall-number-2": "a red wall number 1, seen from below",
    }


def test_every_choice_says_its_memory_and_its_time_here(on: On) -> None:
    """Of the planner, for SD3.5 medium in batches of 4 at 1024 px: what is free is used."""
    typist = Typist([])
    interviewed(on("rtx4090"), typist)
    first = typist.text.partition("2 of 8")[0]
    figures = r"memory 1\d\.\d GiB of 23\.5 GiB, time \d\d to \d\d min; downloads about 14\.7 GiB"
    assert re.search(figures, first), first
    memory = typist.text.partition("5 of 8")[2].partition("6 of 8")[0]
    for name in ("24gb", "10gb", "automatic", "stable", "lowest-vram"):
        assert f"  {name}: " in memory
    assert "80gb" not in memory, "the card is smaller"
    assert "16gb" not in memory, "the same as 24gb for this model"
    assert memory.count("of 23.5 GiB, time ") == 5
    pictures = typist.text.partition("6 of 8")[2].partition("7 of 8")[0]
    assert "a validation takes the time of about" in pictures
    assert "latents, captions" in typist.text.partition("7 of 8")[2]


def test_b_goes_back_and_the_answer_of_before_is_the_default(on: On) -> None:
    lines = ["", BARE, "style: sks", "b", "b", "", "", "b", ""]
    typist = Typist(lines)
    answers, draft = interviewed(on("rtx4060"), typist)
    assert answers["dataset"] == BARE and answers["purpose"] == "style: sks"
    assert typist.text.count("2 of 8") == 2
    assert draft.documents.datasets[0]["instance_prompt"] == "a picture in the style of sks"


def test_q_leaves_and_writes_nothing(on: On) -> None:
    with pytest.raises(Left):
        interviewed(on("rtx4060"), Typist(["", "q"]))


@pytest.mark.parametrize(
    "lines, error, hint",
    [
        (["99"], "there is no choice 99", "type a number from 1 to 4, or a name"),
        (["", "nowhere"], "there is no such folder", "name the folder that holds the images"),
        (["", "", "sculpture"], "the preset `sculpture`", "--presets"),
        (["", "", "12gb"], "`12gb` is a preset by memory", "--presets"),
        (["", "", "", "0"], "`0` is not a length", "10 epochs"),
        (["", "", "", "", "huge"], "the preset `huge`", "--presets"),
        (["", "", "", "", "", ";"], "there is no prompt", "none"),
        (["", "", "", "", "", "", "photos/bare/0.png"], "is a file", "name a folder"),
        (["", "", "", "", "", "", "", "comet_ml"], "the tracker `comet_ml`", "`none`"),
        (["", "", "", "", "", "", "", "wandb"], "wandb is not installed", "pip install"),
    ],
)
def test_an_answer_that_cannot_be_is_asked_again(
    lines: list[str], error: str, hint: str, on: On
) -> None:
    typist = Typist(lines)
    interviewed(on("rtx4060"), typist)
    errors = [line for line in typist.told if line.startswith("error: ")]
    hints = [line for line in typist.told if line.startswith("hint: ")]
    assert len(errors) == 1 and error in errors[0] and hint in hints[0]


def test_a_model_that_does_not_fit_is_refused_where_it_is_chosen(on: On) -> None:
    """T4: 14.5 GiB; the model in fp32 and all of its weights trained need more."""
    typist = Typist(["large", "", "full"])
    answers, _ = interviewed(on("t4"), typist)
    assert answers["purpose"] == "subject" and "error: " in typist.text


def test_a_small_dataset_is_repeated_until_it_fills_a_step(on: On) -> None:
    known = on("rtx4090")
    _, draft = interviewed(known, Typist(["", ONE, "", "", "stable"]))
    assert draft.documents.datasets[0]["repeats"] == 11, "12 images a step from one"
    assert draft.documents.config["gradient_accumulation_steps"] == 3


def test_the_stable_recipe_uses_no_masks(on: On) -> None:
    _, draft = interviewed(on("rtx4090"), Typist(["", CAPTIONED, "", "", "stable"]))
    assert "conditioning_data" not in draft.documents.datasets[0]


def test_short_runs_warm_up_for_a_fifth_and_small_models_train_small(on: On) -> None:
    known = on("rtx4090")
    _, draft = interviewed(known, Typist(["models/small", "", "", "50", "stable"]))
    config = draft.documents.config
    assert config["lr_warmup_steps"] == 10
    assert config["resolution"] == 128, "a third of the 512 pixels of its positions, in 64s"


def test_words_of_the_command_line_win_and_their_questions_are_not_asked(
    root: Path, scratch: Path
) -> None:
    words = (
        "num_train_epochs=3 lora_rank=8 validation_prompt=cat caption_strategy=filename repeats=3"
    )
    known = situation(root, "rtx4060", scratch, words.split())
    typist = Typist([])
    _, draft = interviewed(known, typist, answers_given({}, known))
    config, images = draft.documents.config, draft.documents.datasets[0]
    assert config["num_train_epochs"] == 3 and "max_train_steps" not in config
    assert config["lora_rank"] == 8 and config["validation_prompt"] == "cat"
    assert draft.documents.prompts == {} and "6 of 6" in typist.text
    assert images["repeats"] == 3 and "repeats" not in config, "a key of datasets"
    assert config["caption_strategy"] == "filename" and "caption_strategy" not in images
    assert {c for s in draft.prepared.samples for c in s.captions} == {str(n) for n in range(12)}


def test_a_terminal_of_prompt_toolkit_drives_it(on: On) -> None:
    """Its line editor: a typing error is taken back with backspace."""
    known = on("rtx4060")
    typist = Typist([])
    with create_pipe_input() as keys:
        keys.send_text("\rphotos/bareX\x7f\rsubject: sks cat\r" + 6 * "\r")
        terminal = Terminal(keys, DummyOutput())
        talk = Talk(terminal.ask, typist.tell, lambda draft: ["the plan"], known.draft)
        answers = Interview(known, {}, talk, known.here.config).run()
    assert answers["dataset"] == BARE and answers["purpose"] == "subject: sks cat"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project(tmp_path))
    return tmp_path


def test_yes_asks_nothing_and_what_it_writes_plans(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["configure", "--yes", "--on", "rtx4090", "--from", "stable", "--from", "style"]
    words += ["--dataset", BARE, "--set", "max_train_steps=40", "--model", "large"]
    assert exit_code(words, monkeypatch) == 0
    assert "the run fits NVIDIA GeForce RTX 4090: " in capsys.readouterr().out
    config = json.loads((here / "config/config.json").read_text())
    assert config["pretrained_model_name_or_path"] == "stabilityai/stable-diffusion-3.5-large"
    assert config["base_model_precision"] == "int8-quanto" and config["max_train_steps"] == 40
    assert config["lora_rank"] == 16, "the recipe's, not the purpose's"
    ready = prepare_run(here / "config/config.json", (), "rtx4090")
    assert ready.plan.steps == 40 and not any("without effect" in w for w in ready.plan.warnings)


def test_a_folder_is_named_from_where_the_command_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, beside = here / "mine" / "images", here / BARE
    shutil.copytree(beside, inside)
    for folder, typed, written in (
        ("mine", "mine/images", "images"),
        ("other", BARE, str(beside)),
    ):
        words = ["configure", f"{folder}/config/config.json", "--yes", "--on", "rtx4090"]
        assert exit_code([*words, "--dataset", typed], monkeypatch) == 0
        datasets = json.loads((here / folder / "config/multidatabackend.json").read_text())
        assert datasets[0]["instance_data_dir"] == written


def test_files_that_exist_are_kept_unless_force_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "config").mkdir()
    (here / "config/config.json").write_text("mine")
    words = ["configure", "--yes", "--on", "rtx4090"]
    assert exit_code(words, monkeypatch) == 1
    assert "hint: --force replaces what is there" in capsys.readouterr().err
    assert [p.name for p in (here / "config").iterdir()] == ["config.json"]
    assert (here / "config/config.json").read_text() == "mine"
    assert exit_code([*words, "--force"], monkeypatch) == 0
    assert json.loads((here / "config/config.json").read_text())["model_type"] == "lora"


def test_the_interview_asks_before_it_replaces_a_file(here: Path, scratch: Path) -> None:
    (here / "config").mkdir()
    (here / "config/multidatabackend.json").write_text("mine")
    known = situation(here, "rtx4060", scratch / "there")
    typist = Typist([])
    with pytest.raises(Left):
        interviewed(known, typist)
    assert "replace what exists? [no]: " in typist.told
    answers, _ = interviewed(known, Typist([""] * 8 + ["yes"]))
    assert answers["quality"] == "8gb"


@pytest.mark.parametrize(
    "words, error, hint",
    [
        ([], "asks questions, and there is no terminal", "--yes takes the defaults"),
        (["--yes", "--from", "13gb"], "the preset `13gb`", "--presets"),
        (["--yes", "--from", "8gb", "--from", "stable"], "both answer `quality`", "leave one"),
        (["--yes", "--set", "lora_rank"], "is not KEY=VALUE", "learning_rate=1e-4"),
        (["--yes", "--set", "lora_rnak=8"], "unknown setting `lora_rnak`", "lora_rank"),
        (["--yes", "--set", "data_backend_config=x"], "cannot be set here", "leave it out"),
        (["--yes", "--dataset", "none"], "there is no such folder", "name the folder"),
        (["--yes", "--model", "/none/model"], "no such folder or file", "diffusers folder"),
        (
            ["--yes", "--set", "train_batch_size=64", "--set", "batch_split=1"],
            "`train_batch_size=64` does not fit",
            "leave batch_split out",
        ),
    ],
)
def test_a_command_that_cannot_be_done_is_one_error_and_writes_nothing(
    words: list[str],
    error: str,
    hint: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(["configure", "--on", "rtx4060", *words], monkeypatch) == 1
    said = capsys.readouterr().err
    assert error in said and hint in said.partition("hint: ")[2]
    assert str(here.name) not in said or "none" in said
    assert not (here / "config").exists()


def test_without_a_folder_of_images_yes_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["configure", "--yes", "--on", "rtx4060"], monkeypatch) == 1
    assert "hint: name it with --dataset DIR" in capsys.readouterr().err


def test_presets_are_listed_with_their_cards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["configure", "--presets"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{shown}" for name in PRESETS)


def test_the_guide_shows_what_is_asked_in_80_columns() -> None:
    page = (ROOT / "docs/guides/configure.md").read_text()
    transcript = page.partition("```text\n")[2].partition("```")[0]
    assert max(map(len, transcript.splitlines())) <= 80
    words = " ".join(transcript.split())
    for number, question in enumerate(QUESTIONS, 1):
        assert f"{number} of 8 {question.title} {question.why}" in words
        assert f"Type {question.help}." in words
