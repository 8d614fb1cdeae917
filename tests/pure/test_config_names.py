"""Every name of SimpleTuner that can stand in a file for SD3 is taken, or refused with a reason."""

import json
import re
from pathlib import Path

import pytest

from sd3tune.config import inert, names
from sd3tune.config.accepted import ACCEPTED_NAMES, DATASET_ACCEPTED_NAMES
from sd3tune.config.config import FOREIGN, Config, read
from sd3tune.config.datasets.listing import read_datasets
from sd3tune.config.name_table import answers
from sd3tune.config.other_trainers_data import DATASET_NAMES
from sd3tune.errors import ErrorAndHint

LIST = Path(__file__).parents[1] / "golden/vocabulary.txt"


def vocabulary() -> dict[str, list[str]]:
    """The names under each heading of the list."""
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in LIST.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            section += line.split()
    return found


VOCABULARY = vocabulary()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recognised(problems: tuple[ErrorAndHint, ...]) -> bool:
    """Each problem is about the value or says why; none takes the name for a typing error."""
    assert all(p.message and p.hint for p in problems)
    return not [p for p in problems if "unknown setting" in p.message]


def test_the_list_is_whole() -> None:
    sizes = {section: len(names) for section, names in VOCABULARY.items()}
    assert sizes["config.json"] > 300 and sizes["config.env"] > 80 and sizes["optimizer"] > 60
    assert sizes["multidatabackend.json"] > 50 and sizes["lr_scheduler"] == 8


@pytest.mark.parametrize("name", VOCABULARY["config.json"])
def test_every_setting_is_taken_or_refused_with_a_reason(name: str) -> None:
    Path("c.json").write_text(json.dumps({"output_dir": "o", "max_train_steps": 1, name: "value"}))
    assert recognised(read(Path("c.json")).problems)


@pytest.mark.parametrize("name", VOCABULARY["config.env"])
def test_every_variable_is_taken_or_refused_with_a_reason(name: str) -> None:
    Path("c.env").write_text(f"OUTPUT_DIR=o\n{name}=value\n")
    assert recognised(read(Path("c.env")).problems)


@pytest.mark.parametrize("name", VOCABULARY["multidatabackend.json"])
def test_every_key_of_a_dataset_is_taken_or_refused_with_a_reason(name: str) -> None:
    run = Config(output_dir="o", data_backend_config="d", max_train_steps=1)
    for kind in ("image", "conditioning", "text_embeds"):
        entry = {"id": "a", "instance_data_dir": "p", "dataset_type": kind, name: "value"}
        Path("d.json").write_text(json.dumps([entry]))
        assert recognised(read_datasets(Path("d.json"), run)[1])


@pytest.mark.parametrize("name", VOCABULARY["optimizer"])
def test_every_optimizer_is_taken_or_refused_with_a_reason(name: str) -> None:
    asked = {"output_dir": "o", "max_train_steps": 1, "optimizer": name}
    Path("c.json").write_text(json.dumps(asked))
    reading = read(Path("c.json"))
    assert not [p for p in reading.problems if re.search(r"is (no|not an) optimizer", p.message)]
    assert all(p.hint for p in reading.problems)
    assert reading.problems or reading.settings.optimizer == name


def choices() -> dict[str, list[str]]:
    """The values that SimpleTuner has for each of its settings that are a choice of words."""
    lines = (LIST.parent / "values.txt").read_text().replace("\n  ", " ").splitlines()
    pairs = (line.split(": ") for line in lines if not line.startswith("#"))
    return {name: values.split() for name, values in pairs}


CHOICES = choices()


def test_the_list_of_values_is_whole() -> None:
    assert len(CHOICES) == 60
    assert sum(map(len, CHOICES.values())) == 315


@pytest.mark.parametrize("name", CHOICES)
def test_every_value_of_a_choice_is_taken_or_refused_with_a_reason(name: str) -> None:
    for value in CHOICES[name]:
        asked = {"output_dir": "o", "max_train_steps": 1, name: value}
        Path("c.json").write_text(json.dumps(asked))
        for problem in read(Path("c.json")).problems:
            assert "must be one of" not in problem.message and problem.hint, problem


OF_DATASETS = {  # the values of SimpleTuner, by the dataset_type that has them
    "image": {
        "metadata_backend": "discovery json filesystem parquet huggingface webshart",
        "caption_strategy": "filename textfile instanceprompt parquet csv huggingface webshart",
        "type": "local aws csv huggingface webshart",
        "resolution_type": "pixel area pixel_area",
        "crop_aspect": "square preserve random closest",
        "crop_style": "random corner center centre face",
        "dataset_type": "image conditioning eval text_embeds image_embeds video audio caption "
        "conditioning_image_embeds distillation_cache grounding",
    },
    "conditioning": {
        "conditioning_type": "mask segmentation controlnet reference_strict reference_loose"
    },
    "text_embeds": {"type": "local aws memory webshart"},
}


@pytest.mark.parametrize("kind", OF_DATASETS)
def test_every_value_of_a_key_is_taken_or_refused_with_a_reason(kind: str) -> None:
    run = Config(output_dir="o", data_backend_config="d", max_train_steps=1)
    refused = set()
    for key, values in OF_DATASETS[kind].items():
        for value in values.split():
            entry = {"id": "a", "instance_data_dir": "p", "dataset_type": kind} | {key: value}
            Path("d.json").write_text(json.dumps([entry]))
            for problem in read_datasets(Path("d.json"), run)[1]:
                if f"`{key}={value}`" in problem.message:
                    refused.add(value)
                    assert re.search(r"is not (supported:|for SD3)", problem.message), problem
    assert not refused & {"filename", "discovery", "json", "local", "aws", "centre", "mask"}


@pytest.mark.parametrize("name", VOCABULARY["lr_scheduler"])
def test_every_schedule_is_taken_or_refused_with_a_reason(name: str) -> None:
    asked = {"output_dir": "o", "max_train_steps": 1, "lr_scheduler": name}
    Path("c.json").write_text(json.dumps(asked))
    problems = read(Path("c.json")).problems
    assert not [p for p in problems if "must be one of" in p.message]


def test_a_name_stands_in_one_table_and_every_reason_says_what_to_write() -> None:
    rows = (*names.UNSUPPORTED, *names.DATASET_UNSUPPORTED)
    assert all(row.reason and row.hint and row.names.split() for row in rows)
    for table in (names.UNSUPPORTED, names.DATASET_UNSUPPORTED):
        listed = [name for row in table for name in row.names.split()]
        assert len(listed) == len(set(listed))
    assert not set(names.REASONS) & set(Config.model_fields)
    assert set(names.ALIASES.values()) <= set(Config.model_fields)
    assert not set(names.ALIASES) & set(Config.model_fields)
    every = {*FOREIGN, *DATASET_NAMES, *names.DATASET_REASONS, "start_epoch"}
    assert {*inert.HARMLESS, *inert.OF_SWITCH} <= every
    for refused, passed in ((names.REASONS, ACCEPTED_NAMES),
                            (names.DATASET_REASONS, DATASET_ACCEPTED_NAMES)):  # fmt: skip
        assert not set(refused) & set(passed)


def test_no_reason_puts_a_reader_off() -> None:
    for row in {*FOREIGN.values(), *DATASET_NAMES.values(), *names.DATASET_REASONS.values()}:
        assert not re.search(r"\byet\b|for now", row.reason + row.hint), row.names


def test_the_table_answers_every_name_of_the_list() -> None:
    """The list was transcribed from the options that SimpleTuner documents; the counts are its."""
    assert len(VOCABULARY["config.json"]) == 319 and len(VOCABULARY["config.env"]) == 87
    assert len(VOCABULARY["multidatabackend.json"]) == 76
    assert set(VOCABULARY["config.json"]) <= set(answers(dataset=False))
    assert set(VOCABULARY["multidatabackend.json"]) <= set(answers(dataset=True))


def test_the_table_says_what_reading_does() -> None:
    """A name that the table calls accepted passes with any value; one that it calls refused is
    refused with a value that no row calls harmless."""
    run = {"output_dir": "o", "max_train_steps": 1}
    for name, answer in answers(dataset=False).items():
        if answer.kind in ("accepted", "refused"):
            switch = inert.OF_SWITCH.get(name)
            on = {switch: True} if switch and switch not in Config.model_fields else {}
            Path("c.json").write_text(json.dumps(run | on | {name: "surely"}))
            problems = [p for p in read(Path("c.json")).problems if f"`{name}=" in p.message]
            off = switch in Config.model_fields
            assert bool(problems) == (answer.kind == "refused" and not off), name
