"""Numbers that cannot be meant are refused with what was probably meant: an exponent that lost its
sign, a decay without its decimal point, a percentage for a share."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config import rules
from sd3tune.config.config import Config
from sd3tune.config.probable import behind_the_point, other_sign, percent
from sd3tune.errors import ConfigError
from sd3tune.tables.optimizers import OPTIMIZERS


def load(tmp_path: Path, **settings: Any) -> Config:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"output_dir": "o", "max_train_steps": 10} | settings))
    return Config.load(path)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"learning_rate": 1e4}, "learning_rate=10000 must be below 1 with", "learning_rate=1e-4"),
    ({"learning_rate": "5e5"}, "learning_rate=500000 must be below 1", "learning_rate=5e-5"),
    ({"learning_rate": 1.5e4}, "learning_rate=15000 must be below 1", "learning_rate=1.5e-4"),
    ({"learning_rate": 1}, "learning_rate=1 must be below 1", "optimizer=prodigy"),
    ({"learning_rate": 1e4, "optimizer": "prodigy"}, "below 100", "learning_rate=1e-4"),
    ({"learning_rate": 1e3, "optimizer": "torch-sgd"}, "below 1000", "learning_rate=1e-3"),
    ({"lr_end": 1e6, "lr_scheduler": "cosine"}, "lr_end=1e+06 must be below 1", "lr_end=1e-6"),
    ({"ema_decay": 9.999}, "`ema_decay=9.999` must be below 1", "write ema_decay=0.9999"),
    ({"optimizer_beta2": 999}, "`optimizer_beta2=999` must be below 1", "optimizer_beta2=0.999"),
    ({"optimizer_config": "weight_decay=1e2"}, "weight_decay=100 must be", "weight_decay=1e-2"),
    ({"optimizer_config": "eps=1e8"}, "eps=1e+08 must be at least 0", "eps=1e-8"),
    ({"optimizer_config": "beta2=9.99"}, "beta2=9.99 must be at least 0", "beta2=0.999"),
    ({"optimizer_config": "beta1=-0.9"}, "beta1=-0.9 must be at least 0", "change it"),
    ({"caption_dropout_probability": 10}, "must be at most 1", "caption_dropout_probability=0.1"),
    ({"lora_dropout": 5}, "`lora_dropout=5` must be below 1", "write lora_dropout=0.05"),
]


@pytest.mark.parametrize("settings, error, hint", BAD, ids=lambda v: str(v)[:40])
def test_a_number_that_cannot_be_meant_is_refused_with_what_may_be(
    settings: dict[str, Any], error: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as e:
        load(tmp_path, **settings)
    assert error in str(e.value) and hint in e.value.hint
    assert len(e.value.problems) == 1


@pytest.mark.parametrize("optimizer", ["prodigy", "torch-adadelta", "torch-adafactor", "torch-sgd"])
def test_a_rate_of_1_stays_where_it_is_usual(optimizer: str, tmp_path: Path) -> None:
    assert load(tmp_path, learning_rate=1, optimizer=optimizer).learning_rate == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rate_of_ten_thousand_is_no_optimizer_s(optimizer: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learning_rate=10000 must be below"):
        load(tmp_path, learning_rate=1e4, optimizer=optimizer)


def test_an_option_that_the_optimizer_lacks_is_refused_for_that_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`optimizer_config=eps` has no effect") as e:
        load(tmp_path, optimizer="torch-sgd", optimizer_config="eps=1e8")
    assert len(e.value.problems) == 1


def test_the_file_of_the_number_is_named_and_not_that_of_the_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"output_dir": "o", "max_train_steps": 9, "optimizer": "prodigy"}')
    with pytest.raises(ConfigError, match=r"^the command line: learning_rate=10000 must"):
        Config.load(path, ["learning_rate=1e4"])


def test_what_is_guessed_of_a_number() -> None:
    assert [other_sign(v) for v in (1e4, 2.5e6, 100, 3, 0.1)] == ["1e-4", "2.5e-6", "1e-2", None,
                                                                 None]  # fmt: skip
    assert [behind_the_point(v) for v in (9.999, 99.9, 999, 9, 1, 0.9)] == [
        "0.9999", "0.999", "0.999", "0.9", None, None
    ]  # fmt: skip
    assert [percent(v) for v in (10, 2.5, 100, 1, 101)] == ["0.1", "0.025", "1", None, None]


@pytest.mark.parametrize(
    "optimizer, rate, said",
    [("adamw", 0.1, True), ("adamw", 0.01, False), ("adamw_schedulefree", 0.1, False),
     ("prodigy", 1, False), ("torch-sgd", 5, False)],
)  # fmt: skip
def test_a_rate_that_nobody_published_is_doubted(
    optimizer: str, rate: float, said: bool, tmp_path: Path
) -> None:
    config = load(tmp_path, optimizer=optimizer, learning_rate=rate)
    assert any("far above published rates" in w for w in rules.warnings(config)) == said
