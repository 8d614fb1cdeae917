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
