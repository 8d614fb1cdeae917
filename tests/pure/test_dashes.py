"""Settings on the command line as SimpleTuner's users write them: `--key=value` and `--key value`
are `key=value`."""

from pathlib import Path

import pytest

from sd3tune.cli.arguments import config_of
from sd3tune.cli.dashes import as_words
from tests.commands import exit_code
from tests.projects import Project

OPTIONS = {"--json", "--on", "--help", "-h"}
WORDS = [  # as typed, as read
    ("--lora_rank=8", "lora_rank=8"),
    ("--lora_rank 8", "lora_rank=8"),
    ("--lora-rank 8", "lora_rank=8"),
    ("c.json --learning_rate 1e-4 seed=3", "c.json learning_rate=1e-4 seed=3"),
    ("--use_ema c.json", "use_ema=true c.json"),
    ("--use_ema false c.json", "use_ema=false c.json"),
    ("--gradient_checkpointing --seed 3", "gradient_checkpointing=true seed=3"),
    ("--lora_rank", "lora_rank=true"),
    ("--network_dim 8", "network_dim=8"),
    ("--push_to_hub seed=3", "push_to_hub=true seed=3"),
    ("--lora_ranc=8", "lora_ranc=8"),
    ("--lora_ranc 8", "lora_ranc=8"),
    ("--validation_prompt a=b", "validation_prompt=a=b"),
    ("--config c.json --seed=3", "c.json seed=3"),
    ("--config_file=c.json", "c.json"),
    ("--env style --lora_rank 8", "env=style lora_rank=8"),
    ("--env=style", "env=style"),
    ("--config_backend toml", "config_backend=toml"),
    ("--on t4 --json seed=3", "--on t4 --json seed=3"),  # the command's own
    ("--on=t4", "--on=t4"),
    ("--onn t4", "--onn t4"),  # for click to refuse
    ("--onn=t4", "--onn=t4"),
    ("-- --lora_rank=8", "-- --lora_rank=8"),
]


def test_an_option_of_another_program_takes_its_words_up_to_the_next_option() -> None:
    typed = ["--network_args", "algo=lokr", "factor=8", "--seed", "3"]
    assert list(as_words(typed, OPTIONS)) == ["network_args=algo=lokr factor=8", "seed=3"]


@pytest.mark.parametrize("typed, read", WORDS, ids=lambda words: words[:40])
def test_settings_with_dashes_are_words(typed: str, read: str) -> None:
    assert list(as_words(typed.split(), OPTIONS)) == read.split()


def test_the_file_may_stand_behind_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_of(("seed=3", "my/c.json", "lora_rank=8")) == (
        Path("my/c.json"), ("seed=3", "lora_rank=8")
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Project(tmp_path)
    assert config_of(("seed=3",)) == (Path("config/config.json"), ("seed=3",))


def test_a_misspelt_setting_with_dashes_is_answered_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Project(tmp_path)
    assert exit_code(["plan", "--lora_ranc", "8", "--seed=-1"], monkeypatch) == 1
    assert capsys.readouterr().err.splitlines() == [
        "configuration: config/config.json",
        "error: the command line: unknown setting `lora_ranc`",
        "hint: did you mean `lora_rank`?",
        "error: the command line: `seed=-1` must be at least 0",
        "hint: Seed of all random numbers. The same seed gives the same noise on every vendor's "
        "hardware. Default: 0.",
    ]
