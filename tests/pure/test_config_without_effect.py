"""What is set and changes nothing in a run with its datasets: defaults that all override, keys that
the run switches off, entries that nobody names; and what a word of the command line may switch
off."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config import rules
from sd3tune.config.run_files import load_run

LEAST: dict[str, Any] = {"output_dir": "out", "max_train_steps": 10}
IMAGES: dict[str, Any] = {"id": "a", "instance_data_dir": "photos", "resolution": 64}
PROMPT = {"validation_prompt": "a wall"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("config", "photos", "masks"):
        Path(folder).mkdir()


def run_notes(*entries: dict[str, Any], words: Any = (), **settings: Any) -> list[str]:
    """Everything that a run would say of its settings and datasets."""
    Path("config/config.json").write_text(json.dumps(LEAST | settings))
    Path("config/multidatabackend.json").write_text(json.dumps(entries))
    config, datasets = load_run(Path("config/config.json"), words)
    return [*datasets.notes, *rules.warnings(config, datasets.images)]


SECOND = IMAGES | {"id": "b"}


@pytest.mark.parametrize("name, default, own", [
    ("resolution", 512, 64), ("caption_dropout_probability", 0.5, 0.0), ("train_batch_size", 8, 2),
    ("minimum_image_size", 96, 128), ("caption_strategy", "textfile", "filename"),
    ("vae_batch_size", 2, 1), ("strict", True, False),
])  # fmt: skip
def test_a_default_that_every_dataset_overrides_is_named(name: str, default: Any, own: Any) -> None:
    first, second = (entry | {name: own} for entry in (IMAGES, SECOND))
    line = f"{name} has no effect: every dataset sets its own; leave it out of one of the two files"
    assert run_notes(first, second, **{name: default}) == [line]
    inherits = {key: value for key, value in SECOND.items() if key != name}
    assert run_notes(first, inherits, **{name: default}) == []
    assert run_notes(first, second, **{name: own}) == []  # both say the same


def test_a_default_that_does_something_beside_the_datasets_is_not_named() -> None:
    first, second = (entry | {"resolution": 64} for entry in (IMAGES, SECOND))
    assert run_notes(first, second, resolution=512, **PROMPT) == []  # the size of the pictures
    named = run_notes(first, second, resolution=512, validation_resolution="64x64", **PROMPT)
    assert [line.partition(" has")[0] for line in named] == ["resolution"]
    first, second = (entry | {"write_batch_size": 8} for entry in (IMAGES, SECOND))
    assert run_notes(first, second, write_batch_size=16) == []  # of the captions
    text = {"id": "t", "dataset_type": "text_embeds", "write_batch_size": 8}
    (named_too,) = run_notes(first, second, text, write_batch_size=16)
    assert named_too.startswith("write_batch_size has no effect")


AT_THE_END = [
    ({"start_step": 10}, "the dataset is never drawn from: start_step=10 is not before the end"),
    ({"end_step": 10}, "end_step has no effect: end_step=10 is not before the end"),
    ({"conditioning_data": "m"}, "conditioning_data has no effect: masked_loss_probability is 0"),
]


@pytest.mark.parametrize("key, sentence", AT_THE_END, ids=lambda v: str(v)[:30])
def test_a_key_that_the_run_switches_off_is_named(key: dict[str, Any], sentence: str) -> None:
    masks = {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "masks"}
    third = IMAGES | {"id": "c", "conditioning_data": "m"}
    said = run_notes(IMAGES, SECOND | key, masks, third, masked_loss_probability=0)
    assert any(f"dataset `b`: {sentence}" in line for line in said)
    assert not any("`b`" in line for line in run_notes(IMAGES, SECOND, masks, third))


def test_epochs_behind_the_last_are_named() -> None:
    settings = {"max_train_steps": None, "num_train_epochs": 3}
    said = run_notes(IMAGES, SECOND | {"start_epoch": 4}, **settings)
    assert said[0].startswith("dataset `b`: the dataset is never drawn from: start_epoch=4")
    said = run_notes(IMAGES | {"end_epoch": 3}, SECOND, **settings)
    assert said[0].startswith("dataset `a`: end_epoch has no effect: end_epoch=3")
    assert run_notes(IMAGES | {"end_epoch": 2}, SECOND | {"start_epoch": 3}, **settings) == []


def test_a_probability_of_the_only_dataset_is_named() -> None:
    (line,) = run_notes(IMAGES | {"probability": 0.5})
    assert line.startswith("probability has no effect: there is one dataset")
    assert run_notes(IMAGES | {"probability": 0.5}, SECOND) == []


def test_the_blank_caption_of_a_run_without_one_is_named() -> None:
    blank = {"sd3_clip_uncond_behaviour": "zero", "sd3_t5_uncond_behaviour": "zero"}
    said = run_notes(IMAGES, caption_dropout_probability=0, **blank)
    assert [line.partition(" has")[0] for line in said] == list(blank)
    assert run_notes(IMAGES, **blank) == []


def test_an_entry_that_no_dataset_names_is_named() -> None:
    masks = {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "masks"}
    text = {"id": "t", "dataset_type": "text_embeds", "default": True}
    (line,) = run_notes(IMAGES, masks, text)
    assert line.startswith("dataset `m` not used: no image dataset names it in conditioning_data")
    two = run_notes(IMAGES, text, text | {"id": "u", "default": False})
    assert [line.partition(" not")[0] for line in two] == ["dataset `u`"]


def test_columns_that_nobody_reads_are_named() -> None:
    table = {"path": "t.parquet", "caption_column": "text", "width_column": "w",
             "height_column": "h"}  # fmt: skip
    (line,) = run_notes(IMAGES | {"parquet": table, "caption_strategy": "parquet"})
    assert "parquet.width_column not used: metadata_backend is discovery; set" in line
    (line,) = run_notes(IMAGES | {"parquet": table, "metadata_backend": "parquet"})
    assert "parquet.caption_column not used: caption_strategy is filename; set" in line


def test_masks_have_the_notes_of_their_storage() -> None:
    masks = {"id": "m", "dataset_type": "conditioning", "instance_data_dir": "masks",
             "split": "test", "csv": {"path": "x.csv"}}  # fmt: skip
    said = run_notes(IMAGES | {"conditioning_data": "m"}, masks)
    assert [line.split(": ")[1].partition(" ")[0] for line in said] == ["split", "csv"]


FILE_OF_A_RUN = PROMPT | {"validation_step_interval": 5, "use_ema": True, "ema_decay": 0.9,
                          "lr_scheduler": "cosine", "lr_end": 1e-6, "loss_type": "huber",
                          "huber_c": 0.5, "huber_schedule": "exponential"}  # fmt: skip


@pytest.mark.parametrize("word, idle", [
    ("validation_disable=true", "validation_step_interval=7"), ("use_ema=false", "ema_decay=0.8"),
    ("lr_scheduler=constant", "lr_end=1e-7"), ("loss_type=l2", "huber_c=0.3"),
])  # fmt: skip
def test_a_word_that_switches_off_what_the_file_sets_up_is_no_occasion_to_warn(
    word: str, idle: str
) -> None:
    assert run_notes(IMAGES, words=(word,), **FILE_OF_A_RUN) == []
    (line,) = run_notes(IMAGES, words=(word, idle), **FILE_OF_A_RUN)  # typed beside its switch
    assert line.startswith(f"{idle.partition('=')[0]} has no effect")
    name, _, value = word.partition("=")
    switched = {name: value}
    assert run_notes(IMAGES, **FILE_OF_A_RUN | switched) != []
