"""A batch that does not fit is answered with the largest that does, as the plan computes it."""

import re
from typing import Any

import pytest

from sd3tune.errors import PlanError
from tests.plans import LARGE, plan

LARGEST = re.compile(r"train_batch_size=(\d+), the largest that fits with (\S+) (weights|settings)")


@pytest.mark.parametrize("chip, settings", [
    ("rtx4090", {}), ("rtx3060", {}), ("h200", {"gradient_checkpointing": False}),
    ("rtx4090", {"base_model_precision": "no_change"}), ("rtx4090", {"model_type": "lora"}),
    ("rtx4090", {"gradient_checkpointing": False, "base_model_precision": "int8-quanto"}),
])  # fmt: skip
def test_a_batch_that_does_not_fit_is_answered_with_the_largest_that_does(
    chip: str, settings: dict[str, Any]
) -> None:
    settings = settings | {"batch_split": 1}
    with pytest.raises(PlanError, match="`train_batch_size=640` does not fit: ") as e:
        plan(chip, LARGE, train_batch_size=640, **settings)
    assert "leave batch_split out" in e.value.hint
    found = LARGEST.search(e.value.hint)
    assert found is not None, e.value.hint
    if "set gradient_checkpointing=true and " in e.value.hint:
        settings = settings | {"gradient_checkpointing": True}
    largest = int(found[1])
    made = plan(chip, LARGE, train_batch_size=largest, **settings)
    assert found[3] == "settings" or made.precision.transformer.value == found[2]
    with pytest.raises(PlanError, match=f"`train_batch_size={largest + 1}` does not fit"):
        plan(chip, LARGE, train_batch_size=largest + 1, **settings)
    steps = re.search(r"gradient_accumulation_steps=(\d+) keeps the images of a step", e.value.hint)
    assert steps is not None and largest * (int(steps[1]) - 1) < 640 <= largest * int(steps[1])


def test_a_batch_of_one_that_does_not_fit_is_not_the_batch_s_fault() -> None:
    with pytest.raises(PlanError) as e:
        plan("m1", LARGE, train_batch_size=4)
    assert "does not fit" not in str(e.value) and "smaller model" in e.value.hint
