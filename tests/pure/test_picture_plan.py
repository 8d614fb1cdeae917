"""How often pictures are drawn where nobody says it, and why."""

from typing import Any

from sd3tune.backends.decide import chips
from sd3tune.config.config import Config
from sd3tune.decision import Decision
from sd3tune.plan.describe import decisions
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.picture_plan import rounded
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from tests.plans import MEDIUM, samples


def interval(steps: int, prompts: int = 3, **settings: Any) -> Decision[int]:
    """Steps between validations of SD3.5 medium at 1024 pixels, batches of 4 images."""
    values = {"output_dir": "o", "data_backend_config": "d", "train_batch_size": 4} | settings
    config, facts = Config(max_train_steps=steps, **values), chips.facts(chips.chip("h100-sxm"))
    inputs = RunInputs(config, facts, find(MEDIUM), samples(40), prompts=prompts)
    plan = resolve(inputs)
    assert decisions(plan)["validation_step_interval"].source == (
        plan.pictures.times.every_steps.source
    )
    return plan.pictures.times.every_steps


def test_a_long_run_has_about_ten_validations() -> None:
    """3 pictures of 30 steps of two passes take 180 passes; a step of 4 images about 12."""
    long = interval(3000)
    assert (long.value, long.source.by) == (300, "auto")
    assert long.reason == "9 times on the way: a validation takes the time of about 15 steps"
    assert interval(10_000).value == 1000
    assert interval(1000).value == 100, "ten of 15 steps are 15 % of the run"


def test_a_validation_that_takes_long_is_rarer_and_a_run_that_is_short_has_none() -> None:
    assert interval(1000, 12).value == 500, "one lasts 60 steps: three are a fifth of the run"
    assert interval(1000, 12, validation_guidance=1).value == 200
    short = interval(50)
    assert short.value == 0 and short.reason.startswith("pictures at the start and the end alone")


def test_the_user_and_an_interval_of_epochs_decide_before_any_estimate() -> None:
    asked = interval(3000, validation_step_interval=7)
    assert (asked.value, asked.source.by) == (7, "user")
    epochs = interval(3000, validation_epoch_interval=2)
    assert epochs.value == 0 and epochs.source.key == "validation_epoch_interval"
    assert interval(3000, prompts=0).reason == "no prompt is set"
    off = interval(3000, 0, validation_disable=True, validation_prompt="x")
    assert off.reason == "validation_disable is true"


def test_intervals_are_round_numbers() -> None:
    assert [rounded(n) for n in (1, 2, 3, 6, 11, 21, 51, 101, 347)] == [
        1, 2, 3, 10, 20, 30, 100, 200, 500,
    ]  # fmt: skip
