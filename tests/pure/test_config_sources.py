"""Who set a setting: the file and the key as the user wrote it, a default, or nobody yet."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.decision import AUTO, DEFAULT, Provenance

FILE = "config/config.json"
LEAST: dict[str, Any] = {"output_dir": "out", "max_train_steps": 10}


pytestmark = pytest.mark.usefixtures("empty_project")


def load(*words: str, **settings: Any) -> Config:
    Path(FILE).write_text(json.dumps(LEAST | settings))
    return Config.load(Path(FILE), words)


def user(key: str, file: str = FILE) -> Provenance:
    return Provenance("user", file, key)


def test_a_key_of_the_file_is_named_as_it_was_written() -> None:
    config = load(**{"--lora-rank": 8, "save_total_limit": 3, "vae_cache_preprocess": True})
    assert config.source("lora_rank") == user("--lora-rank")
    assert config.source("checkpoints_total_limit") == user("save_total_limit")
    assert config.source("output_dir") == user("output_dir")


def test_a_word_of_the_command_line_is_named_with_its_key_and_replaces_the_file_s() -> None:
    config = load("--checkpointing_steps=5", "seed=2", seed=1, learning_rate=0.5)
    assert config.source("checkpoint_step_interval") == user(
        "--checkpointing_steps", "the command line"
    )
    assert config.source("seed") == user("seed", "the command line")
    assert config.source("learning_rate") == user("learning_rate")


def test_a_variable_of_an_env_file_is_named_as_it_was_written() -> None:
    path = Path("config/config.env")
    path.write_text("export OUTPUT_DIR=o\nMAX_NUM_STEPS=5\nTRAINER_EXTRA_ARGS='--lora_rank 8'\n")
    config = Config.load(path)
    assert config.source("max_train_steps") == user("MAX_NUM_STEPS", str(path))
    assert config.source("lora_rank") == user("--lora_rank", str(path))
    assert config.source("learning_rate") == DEFAULT


def test_what_nobody_wrote_is_a_default_or_open() -> None:
    config = load(mixed_precision="auto", lora_alpha=None, validation_prompt="")
    assert config.source("learning_rate") == DEFAULT
    assert config.source("base_model_precision") == AUTO
    for written_and_open in ("mixed_precision", "lora_alpha", "validation_prompt"):
        assert config.source(written_and_open) == AUTO


def test_a_value_that_equals_the_default_is_still_the_user_s() -> None:
    assert load(lora_rank=16).source("lora_rank") == user("lora_rank")


def test_what_is_filled_in_is_not_the_user_s() -> None:
    config = load(lora_type="lycoris")
    for name in ("pretrained_model_name_or_path", "data_backend_config", "lycoris_config"):
        assert getattr(config, name) and config.source(name) == DEFAULT
    assert config.source("lora_type") == user("lora_type")


def test_what_follows_from_a_user_s_key_names_that_key() -> None:
    config = load("lr_warmup_steps=2", model_flavor="large", lr_scheduler="constant")
    assert config.source("pretrained_model_name_or_path") == Provenance(
        "auto", FILE, "model_flavor"
    )
    assert config.lr_scheduler == "constant_with_warmup"
    assert config.source("lr_scheduler") == Provenance(
        "auto", "the command line", "lr_warmup_steps"
    )


def test_a_file_in_another_folder_is_named_as_it_was_given(tmp_path: Path) -> None:
    load(seed=1)
    shown = str(tmp_path / FILE)
    assert Config.load(Path(shown)).source("seed") == user("seed", shown)
    assert Config.load(Path("config")).source("seed") == user("seed", FILE)


def test_a_dataset_s_key_is_its_own_the_run_s_or_a_default() -> None:
    path = Path("config/multidatabackend.json")
    entry = {"id": "a", "instance_data_dir": "photos", "is_regularization_data": True,
             "--vae_batch_size": 2, "resolution": 64}  # fmt: skip
    table = {"id": "b", "type": "csv", "csv_file": "rows.csv", "caption_strategy": None}
    path.write_text(json.dumps([entry, table]))
    datasets = load_datasets(path, load(resolution=128, write_batch_size=8))
    assert datasets.source("a", "resolution") == user("resolution", str(path))
    assert datasets.source("a", "vae_batch_size") == user("--vae_batch_size", str(path))
    assert datasets.source("a", "is_regularisation_data") == user(
        "is_regularization_data", str(path)
    )
    assert datasets.source("b", "resolution") == user("resolution")
    assert datasets.source("b", "write_batch_size") == user("write_batch_size")
    assert datasets.source("b", "vae_batch_size") == DEFAULT
    assert datasets.source("b", "csv") == user("csv_file", str(path))
    assert datasets.source("b", "repeats") == DEFAULT
    assert datasets.source("b", "caption_strategy").by != "user"
