"""Names, options and schedules that are refused before anything is loaded, and with what advice."""

from pathlib import Path
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.decisions import capabilities, decide_all
from sd3tune.backends.decide.rules import Request
from sd3tune.config.config import Config
from sd3tune.errors import ConfigError, PlanError
from sd3tune.tables.optimizers import OPTIMIZERS


def load(tmp_path: Path, **settings: Any) -> Config:
    import json

    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return Config.load(path)


# SimpleTuner's names, but those it or sd3tune refuses.
VOCABULARY = """
    adamw adamw_bf16 adamw_schedulefree prodigy soap
    ao-adamw8bit ao-adamw4bit ao-adamfp8 ao-adamwfp8
    optimi-stableadamw optimi-adamw optimi-lion optimi-radam optimi-ranger optimi-adan optimi-adam
    optimi-sgd
    bnb-adagrad bnb-adagrad8bit bnb-adam bnb-adam8bit bnb-adam-paged bnb-adam8bit-paged
    bnb-adamw bnb-adamw8bit bnb-adamw-paged bnb-adamw8bit-paged
    bnb-lion bnb-lion8bit bnb-lion-paged bnb-lion8bit-paged
    bnb-ademamix bnb-ademamix8bit bnb-ademamix-paged bnb-ademamix8bit-paged
    torch-adam torch-adamw torch-sgd torch-radam torch-nadam torch-rmsprop torch-adagrad
    torch-adadelta torch-adafactor torch-adamax torch-asgd
""".split()


@pytest.mark.parametrize("name", VOCABULARY)
def test_every_name_of_the_vocabulary_is_taken(name: str, tmp_path: Path) -> None:
    assert load(tmp_path, optimizer=name).optimizer == name


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"optimizer": "adafactor"}, "is torch-adafactor here"),
        ({"optimizer": "adamw8bit"}, "bnb-adamw8bit or ao-adamw8bit"),
        ({"optimizer": "dadaptation"}, "followed by prodigy"),
        ({"optimizer": "muon"}, "write soap"),
        ({"optimizer": "sdnq-adamw"}, "needs SDNQ"),
        ({"optimizer": "adamw_schedulefree+aggressive"}, "raise learning_rate"),
        ({"optimizer": "adamw_schedulefree+no_kahan"}, "its weights are float32"),
        ({"optimizer": "bnb-adagrad-paged"}, "does not exist in bitsandbytes"),
        ({"optimizer": "torch-sparseadam"}, "sparse gradients"),
        ({"optimizer": "optimi-stableadam"}, "did you mean `optimi-stableadamw`?"),
        ({"optimizer": "xyzzy"}, "is not an optimizer"),
        ({"lr_scheduler": "sine"}, "programs that offer `sine` implement different curves"),
        ({"optimizer_config": "momentum=0.9"}, "`optimizer_config=momentum` has no effect with "),
        ({"optimizer": "optimi-adamw", "optimizer_config": "gradient_release=true"}, "no effect"),
        ({"optimizer": "torch-sgd", "optimizer_beta1": 0.8}, "`optimizer_beta1` has no effect"),
        ({"prodigy_steps": 5}, "`prodigy_steps` has no effect with optimizer=adamw"),
        ({"lr_scale_sqrt": True}, "lr_scale_sqrt=true without lr_scale=true"),
        ({"lr_scheduler": "polynomial", "lr_power": 0}, "`lr_power=0` must be above 0"),
        ({"grad_clip_method": "both"}, "must be one of 'norm', 'value'"),
    ],
)
def test_what_would_not_be_listened_to_is_refused(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as e:
        load(tmp_path, **settings)
    assert said in str(e.value) and "config.json`" in str(e.value) and e.value.hint


def test_options_and_betas_reach_the_optimizer_as_set(tmp_path: Path) -> None:
    settings = {"optimizer": "prodigy", "optimizer_config": "weight_decay=0.1,d_coef=2"}
    config = load(tmp_path, **settings, optimizer_beta2=0.99, prodigy_steps=100)
    assert config.optimizer_options == {
        "weight_decay": 0.1, "d_coef": 2, "beta2": 0.99, "prodigy_steps": 100
    }  # fmt: skip


def refusal(chip: str, optimizer: str, **asked: Any) -> PlanError:
    with pytest.raises(PlanError) as e:
        decide_all(chips.facts(chips.chip(chip)), Request(optimizer=optimizer, **asked))
    return e.value


@pytest.mark.parametrize(
    "chip, optimizer, said",
    [
        ("t4", "adamw_bf16", "bf16 is emulated on this chip"),
        ("m1", "adamw_bf16", "bf16 is emulated on Apple M1"),
        ("m3-max", "bnb-lion8bit", "use optimi-lion"),
        ("m3-max", "ao-adamw8bit", "unverified on MPS; use adamw"),
        ("mi300x", "bnb-ademamix8bit-paged", "use bnb-ademamix8bit"),
        ("mi300x", "ao-adamfp8", "use bnb-adamw8bit"),
        ("h200", "ao-adamw4bit", "torchao is not installed: pip install 'sd3tune[torchao]'"),
    ],
)
def test_where_an_optimizer_cannot_run_the_plan_says_what_can(
    chip: str, optimizer: str, said: str
) -> None:
    error = refusal(chip, optimizer)
    assert said in str(error) and "adamw" in error.hint


@pytest.mark.parametrize("name", ["bnb-adamw8bit", "prodigy", "soap", "torch-adafactor"])
def test_optimizers_that_cannot_step_split_weights_are_refused_with_fsdp(name: str) -> None:
    """Seen: fully_shard over one gloo process; the kernels have no sharding strategy."""
    assert "split over processes" in str(refusal("h200", name, sharded=True))
    decide_all(chips.facts(chips.chip("h200")), Request(optimizer=name))


def test_weights_of_bf16_are_for_the_optimizer_that_keeps_small_updates() -> None:
    error = refusal("h200", "optimi-lion", trainable_dtype="bf16")
    assert "an update below 1/256 of a weight is lost" in str(error)


def test_every_optimizer_is_in_the_capabilities_of_a_chip() -> None:
    table = capabilities(chips.facts(chips.chip("h200")))
    assert set(table["optimizer"]) == set(OPTIMIZERS)
