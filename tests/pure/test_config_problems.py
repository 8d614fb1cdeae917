"""All problems of a configuration in one run: every key, every rule, every file."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune import cli
from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.config.files.prompts import load_prompts
from sd3tune.config.run_files import load_run
from sd3tune.errors import ConfigError

FILE, DATASETS = Path("config/config.json"), Path("config/multidatabackend.json")
LEAST: dict[str, Any] = {"output_dir": "out", "max_train_steps": 10}
IMAGES: dict[str, Any] = {"id": "a", "instance_data_dir": "photos"}


pytestmark = pytest.mark.usefixtures("empty_project")


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def messages(e: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    """What is wrong, without the file; and nothing without a hint."""
    assert all(p.hint and "\n" not in p.message + p.hint for p in e.value.problems)
    assert (e.value.problems[0].message, e.value.problems[0].hint) == (str(e.value), e.value.hint)
    return [p.message.partition(": ")[2] for p in e.value.problems]


def test_every_key_and_every_rule_of_the_file_is_reported_in_the_order_of_the_file() -> None:
    write(FILE, LEAST | {"lora_ranc": 8, "learning_rate": "fast", "num_train_epochs": 2,
                         "init_lokr_norm": True, "lr_warmup_steps": 20, "seed": -1})  # fmt: skip
    with pytest.raises(ConfigError) as e:
        Config.load(FILE)
    assert messages(e) == [
        "unknown setting `lora_ranc`",
        "`learning_rate=fast` must be a number",
        "`init_lokr_norm=true` is not supported: it would begin with another model than the base "
        "model",
        "`seed=-1` must be at least 0",
        "max_train_steps=10 and num_train_epochs=2 are both set",
        "lr_warmup_steps=20 must be below max_train_steps=10",
    ]
    assert all(p.message.startswith(f"`{FILE}`: ") for p in e.value.problems)


def test_a_problem_names_the_lines_of_its_settings() -> None:
    wrong = {"seed": -1, "max_train_steps": 10, "lr_end": 0.5, "num_train_epochs": 2}
    as_json = json.dumps({"output_dir": "o"} | wrong, indent=1)  # a brace on the first line
    as_toml = "\n# settings\n" + "".join(f"{key} = {value}\n" for key, value in wrong.items())
    for path, text, (seed, steps, epochs) in (
        (FILE, as_json, (3, 4, 6)),
        (Path("config.toml"), as_toml + 'output_dir = "o"\n', (3, 4, 6)),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as e:
            Config.load(path)
        found = [p.message.partition(": ")[0] for p in e.value.problems]
        assert found[:2] == [f"`{path}:{seed}`", f"`{path}`, lines {steps} and {epochs}"]


def test_words_of_the_command_line_are_reported_after_the_file() -> None:
    write(FILE, LEAST | {"seed": -1})
    with pytest.raises(ConfigError) as e:
        Config.load(FILE, ["lora_rank=0", "lr_scheduler=sine", "faster", "lora_ranc=1"])
    assert [p.message for p in e.value.problems] == [
        f"`{FILE}`: `seed=-1` must be at least 0",
        "the command line: `lora_rank=0` must be at least 1",
        "the command line: `lr_scheduler=sine` is not supported: programs that offer `sine` "
        "implement different curves",
        "the command line: unknown setting `lora_ranc`",
        "`faster` is not KEY=VALUE",
    ]


def test_a_wrong_value_is_one_problem_and_breaks_no_rule() -> None:
    """Its default would contradict another setting, or leave one without a partner."""
    write(FILE, {"output_dir": "{env:NOT_SET}", "max_train_steps": "ten", "lr_end": 0.5,
                 "learning_rate": -1, "huber_c": 2, "huber_schedule": "none"})  # fmt: skip
    with pytest.raises(ConfigError) as e:
        Config.load(FILE)
    wrong = ["`output_dir` uses", "`max_train_steps=ten`", "`learning_rate=-1`", "`huber_schedule"]
    assert [m for m, start in zip(messages(e), wrong, strict=True) if m.startswith(start)]


def test_lines_of_an_env_file_are_reported_together() -> None:
    path = Path("config.env")
    path.write_text("set -e\nA=$(date)\nOUTPUT_DIR=o\nHF_TOKEN=x\nMAX_NUM_STEPS=ten\n")
    with pytest.raises(ConfigError) as e:
        Config.load(path)
    assert [p.message for p in e.value.problems] == [
        "`config.env:1` is not an assignment: `set -e`",
        "`config.env:2`: `$(` is a command to a shell, and sd3tune runs no command of this file: "
        "`$(date)`",
        "`config.env`: HF_TOKEN is read from the environment, not from this file",
        "`config.env:5`: `max_train_steps=ten` must be a whole number",
    ]


def test_every_dataset_and_every_key_of_it_is_reported() -> None:
    entries = [
        IMAGES | {"crop": "maybe", "crop_stile": "x", "resolution": 8, "repeats": -1},
        {"id": "t", "dataset_type": "text_embeds", "crop": True},
        {"id": "b", "type": "webshart"},
        7,
        {"id": "c", "disabled": True, "nonsense": 1},
    ]
    with pytest.raises(ConfigError) as e:
        load_datasets(write(DATASETS, entries), Config.load(write(FILE, LEAST)))
    assert messages(e) == [
        "dataset `a`: unknown setting `crop_stile`",
        "dataset `a`: `crop=maybe` must be true or false",
        "dataset `a`: `repeats=-1` must be at least 0",
        "dataset `a`: resolution=8 is below 64 pixels",
        "dataset `t`: `crop=true` belongs to an image dataset",
        "dataset `b`: `type=webshart` is not supported: shards of the webshart package are not "
        "read",
        "entry 4 is a number or null, not an object",
    ]


def test_keys_inside_an_object_are_reported_one_by_one() -> None:
    entries = [IMAGES | {"caption_shuffle": {"count": 0, "seed": -1, "n": 1}}]
    with pytest.raises(ConfigError) as e:
        load_datasets(write(DATASETS, entries), Config.load(write(FILE, LEAST)))
    assert messages(e) == [
        "dataset `a`: `caption_shuffle.count=0` must be at least 1",
        "dataset `a`: `caption_shuffle.seed=-1` must be at least 0",
        "dataset `a`: `caption_shuffle` has no key `n`",
    ]


def test_what_datasets_ask_of_each_other_is_reported_together() -> None:
    entries = [IMAGES | {"conditioning_data": "m", "probability": 0, "text_embeds": "u"}]
    with pytest.raises(ConfigError) as e:
        load_datasets(write(DATASETS, entries), Config.load(write(FILE, LEAST)))
    where = f"`{DATASETS}`"
    assert [p.message.partition(" names")[0] for p in e.value.problems] == [
        f"{where}: every image dataset has a probability of 0 or less",
        f"{where}: dataset `a`: `conditioning_data=m`",
        f"{where}: dataset `a`: `text_embeds=u`",
    ]


def test_both_files_are_reported_in_one_run_the_settings_first() -> None:
    write(FILE, LEAST | {"lora_rank": 0, "caption_strategy": "paint"})
    write(DATASETS, [IMAGES | {"crop": "maybe"}, {"id": "b", "instance_data_dir": 5}])
    with pytest.raises(ConfigError) as e:
        load_run(FILE, ["seed=-1"])
    assert [p.message.split("=")[0].rpartition("`")[2] for p in e.value.problems] == [
        "lora_rank", "caption_strategy", "seed", "crop", "instance_data_dir"
    ]  # fmt: skip


def test_a_rule_names_every_place_in_which_its_values_were_written() -> None:
    write(FILE, LEAST | {"learning_rate": 1e-4, "lr_warmup_steps": 20})
    with pytest.raises(ConfigError) as e:
        Config.load(FILE, ["lr_end=0.5", "lr_scheduler=cosine"])
    assert [p.message.partition(": ")[0] for p in e.value.problems] == [
        f"`{FILE}`", f"`{FILE}` and the command line"
    ]  # fmt: skip
    with pytest.raises(ConfigError) as e:
        Config.load(FILE, ["lr_warmup_steps=30", "max_train_steps=5"])
    assert str(e.value).startswith("the command line: lr_warmup_steps=30 must be below")


def test_a_key_that_a_dataset_inherits_is_named_with_the_file_it_comes_from() -> None:
    write(FILE, LEAST | {"resolution": 8})
    write(DATASETS, [IMAGES])
    with pytest.raises(ConfigError) as e:
        load_run(FILE)
    assert str(e.value) == f"`{FILE}`: dataset `a`: resolution=8 is below 64 pixels"
    with pytest.raises(ConfigError) as e:
        load_run(FILE, ["resolution=9"])
    assert str(e.value) == "the command line: dataset `a`: resolution=9 is below 64 pixels"


def test_prompts_and_the_lycoris_file_are_reported_with_the_rest() -> None:
    write(Path("config/prompts.json"), {"a/b": "x"})
    write(Path("config/lycoris_config.json"), {"algo": "loha", "factor": 4})
    write(FILE, LEAST | {"seed": -1, "lora_type": "lycoris",
                         "user_prompt_library": "config/prompts.json"})  # fmt: skip
    write(DATASETS, [IMAGES | {"crop": "maybe"}])
    with pytest.raises(ConfigError) as e:
        load_run(FILE, ["lora_rank=0"])
    starts = ["`seed=-1`", "`lora_rank=0`", "dataset `a`: `crop", "shortname `a/b`", "factor"]
    assert [m for m, start in zip(messages(e), starts, strict=True) if m.startswith(start)]


def test_an_entry_without_a_name_or_with_a_problem_is_read_to_its_end() -> None:
    write(FILE, LEAST)
    write(DATASETS, [{"instance_data_dir": "nowhere", "crop": "maybe", "disabled": "perhaps"},
                     IMAGES | {"instance_data_dir": "gone", "repeats": -1}])  # fmt: skip
    with pytest.raises(ConfigError) as e:
        load_run(FILE)
    wrong = messages(e)
    assert wrong[:4] == [
        "entry 1: `disabled=perhaps` must be true or false",
        "entry 1 has no id",
        "dataset `number 1`: `crop=maybe` must be true or false",
        "dataset `a`: `repeats=-1` must be at least 0",
    ]
    assert "nowhere` of dataset `number 1`" in wrong[4] and "gone` of dataset `a`" in wrong[4]


def test_a_file_of_another_program_is_answered_before_it_is_parsed() -> None:
    for name in ("train.yaml", "train.yml"):
        Path(name).write_text("network_dim: 4")
        with pytest.raises(ConfigError, match="file of another program") as e:
            Config.load(Path(name))
        assert "config.json" in e.value.hint


def test_a_wrong_setting_of_the_run_is_not_held_against_a_dataset() -> None:
    write(FILE, LEAST | {"resolution": "large", "resolution_type": "area"})
    write(DATASETS, [IMAGES])
    with pytest.raises(ConfigError) as e:
        load_run(FILE)
    assert messages(e) == ["`resolution=large` must be a number"]


def test_without_a_datasets_file_the_settings_are_reported_too() -> None:
    write(FILE, LEAST | {"lora_rank": 0})
    with pytest.raises(ConfigError) as e:
        load_run(FILE)
    assert len(e.value.problems) == 2
    assert e.value.problems[1].message.startswith("no such list of datasets: ")


def test_regularisation_beside_full_training_is_refused_with_the_datasets() -> None:
    write(FILE, LEAST | {"model_type": "full", "fsdp_enable": True})
    write(DATASETS, [IMAGES | {"is_regularisation_data": True}])
    with pytest.raises(ConfigError) as e:
        load_run(FILE)
    assert [m.split(",")[0] for m in messages(e)] == [
        "dataset `a`: is_regularisation_data needs the model as it was",
        "dataset `a`: is_regularisation_data takes one more forward pass",
    ]


def test_every_problem_of_a_prompt_library_and_of_a_lycoris_file_is_reported() -> None:
    library = write(Path("library.json"), {"a/b": "x", "c": 1, "d": "fine", "D": "again"})
    config = Config.load(write(FILE, LEAST | {"user_prompt_library": str(library)}))
    with pytest.raises(ConfigError) as e:
        load_prompts(config)
    assert len(e.value.problems) == 3
    lycoris = {"algo": "loha", "factor": 4, "multiplier": 0, "preset": "x", "linear_dim": 0}
    with pytest.raises(ConfigError) as e:
        load_lycoris(write(Path("lycoris.json"), lycoris))
    assert messages(e) == [
        "`preset=x` is not supported",
        "`linear_dim=0` must be at least 1",
        "multiplier=0 would train nothing",
        "factor belongs to lokr, this is algo=loha",
    ]


@pytest.mark.parametrize("command", ["plan", "train", "dataset"])
def test_the_terminal_shows_a_pair_of_lines_for_each_problem(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(FILE, LEAST | {"lora_ranc": 0, "--seed": -1})
    write(DATASETS, [IMAGES | {"crop_stile": "x"}])
    monkeypatch.setattr("sys.argv", ["sd3tune", command, str(FILE), "learning_rate=0"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "hint:"] * 4
    assert [line.rpartition("`")[0].rpartition("`")[2] for line in lines[::2]] == [
        "lora_ranc", "seed=-1", "learning_rate=0", "crop_stile"
    ]  # fmt: skip
