"""Products in 8 bits are taken where they were measured to be faster, and the plan says it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide import chips, product_speeds
from sd3tune.backends.decide.admission import admit
from sd3tune.backends.decide.decisions import decide_all
from sd3tune.backends.decide.probes import ProbeAnswer
from sd3tune.backends.decide.rules import Request
from sd3tune.config.config import Config
from sd3tune.plan.duration import step_duration
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.kernel_shape import products_to_measure
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from tests.plans import LARGE, samples

FAST = {"no_change": 2.1e-3, "int8-w8a8": 1.6e-3, "fp8-w8a8": 1.8e-3}
SLOW = {"no_change": 2.1e-3, "int8-w8a8": 2.05e-3, "fp8-w8a8": 2.4e-3}


def measured(chip: str, times: Mapping[str, float], **settings: Any) -> Plan:
    """The plan of a card on which these times were measured."""
    facts = replace(chips.facts(chips.chip(chip)), product_seconds=times)
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    return resolve(RunInputs(Config(**values), facts, find(LARGE), samples()))


def seconds(made: Plan) -> float:
    step = step_duration(made, 4096)
    assert step is not None
    return step.seconds


def test_8_bit_weights_multiply_in_8_bits_only_where_that_was_measured_to_be_faster() -> None:
    fast, slow, unknown = (measured("rtx4070", times) for times in (FAST, SLOW, {}))
    chosen = fast.precision.transformer
    assert chosen.value == "int8-w8a8" and chosen.source.by == "auto"
    assert "int8-w8a8 is 1.31 times as fast as unquantised weights" in chosen.reason
    assert "int8-w8a8 1.6 ms, fp8-w8a8 1.8 ms, no_change 2.1 ms" in chosen.reason
    assert slow.precision.transformer.value == "int8-quanto"
    assert "int8-w8a8 2.05 ms" in slow.precision.transformer.reason
    assert unknown.precision.transformer.value == "int8-quanto"
    assert " ms" not in unknown.precision.transformer.reason
    assert seconds(fast) < seconds(slow)


def test_weights_that_fit_stay_as_they_are_and_the_plan_says_what_would_be_faster() -> None:
    kept = measured("h100", FAST).precision.transformer
    assert kept.value == "no_change" and "base_model_precision=int8-w8a8" in kept.reason
    smaller = measured("rtx4060", FAST).precision.transformer
    assert smaller.value == "nf4-bnb"  # 8 bits do not fit


def test_what_the_user_set_stays_with_its_measured_speed() -> None:
    set_ = measured("rtx4070", SLOW, base_model_precision="fp8-w8a8")
    reason = set_.precision.transformer.reason
    assert "0.88 times as fast as unquantised weights" in reason and "fp8-w8a8 2.4 ms" in reason
    sheet = measured("rtx4070", {}, base_model_precision="fp8-w8a8")
    assert "by data sheets, not measured" in sheet.precision.transformer.reason
    assert seconds(sheet) < seconds(set_)
    unsure, sure = step_duration(sheet, 4096), step_duration(set_, 4096)
    assert unsure is not None and sure is not None and unsure.error > sure.error


@pytest.mark.parametrize(
    ("chip", "settings", "asked"),
    [
        ("h100", {}, True),
        ("rtx4070", {"base_model_precision": "fp8-w8a8"}, True),
        ("rtx4070", {"base_model_precision": "nf4-bnb"}, False),
        ("m3-max", {}, False),
        ("h200", {"model_type": "full", "train_batch_size": 1}, False),
    ],
)
def test_products_are_measured_where_a_choice_or_a_time_depends_on_them(
    chip: str, settings: dict[str, Any], asked: bool
) -> None:
    names = products_to_measure(measured(chip, {}, **settings))
    assert bool(names) is asked
    assert all(product_speeds.shape_of(n) == (4096, 2432, "bf16") for n in names)


def test_the_answer_of_the_probe_decides_and_a_failed_one_decides_nothing() -> None:
    name, facts = product_speeds.probe_of(4096, 2432, "bf16"), chips.facts(chips.chip("h100"))
    too_big = {"no_change": "too big"}

    def chosen(answer: ProbeAnswer) -> str:
        admitted = admit(
            facts,
            lambda f: decide_all(f, Request(), lambda axis, r: too_big)[0],
            lambda decided: {axis: d.value for axis, d in decided.items()},
            lambda f, names: {n: answer for n in names if n == name},
            measuring=lambda decided: [name],
        )
        return admitted.decided["base_model_precision"].value

    words = "no_change 2.1 ms, int8-w8a8 1.6 ms, fp8-w8a8 1.5 ms, int2-w2a2 0.1 ms"
    assert chosen(ProbeAnswer(True, words)) == "fp8-w8a8"
    assert chosen(ProbeAnswer(False, "no product in 8 bits runs here")) == "int8-quanto"
