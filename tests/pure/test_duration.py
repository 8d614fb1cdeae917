"""How long a run takes, against counts and measurements of another hand."""

from typing import Any

import pytest

from sd3tune.plan.duration import (
    Duration,
    forward,
    run_duration,
    spoken,
    step_duration,
    step_operations,
)
from sd3tune.sd3.variants import SD35_LARGE, SD35_MEDIUM, Transformer
from tests.plans import LARGE, MEDIUM, plan

IMAGE, TEXT = 4096, 154  # tokens: 1024 x 1024 pixels, and T5's


@pytest.mark.parametrize(
    "shape, linear, attention",
    [(SD35_LARGE, 23.3e12, 6.9e12), (SD35_MEDIUM, 6.9e12, 4.1e12)],
)
def test_operations_are_those_that_torch_counts(
    shape: Transformer, linear: float, attention: float
) -> None:
    """FlopCounterMode on the meta device, one image of 4096 + 231 tokens, in two digits."""
    one = forward(shape, IMAGE, TEXT)
    assert one.linear == pytest.approx(linear, rel=0.01)
    assert one.attention == pytest.approx(attention, rel=0.01)


def test_a_step_counts_the_backward_pass_checkpointed_blocks_and_every_image() -> None:
    """FlopCounterMode: a LoRA step of SD3.5 large takes 67.4 TFLOP, recomputed 97.7."""
    settings: dict[str, Any] = {"tokenizer_max_length": TEXT, "train_batch_size": 1}
    kept = plan("h200", LARGE, gradient_checkpointing=False, **settings)
    again = plan("h200", LARGE, **settings)
    assert step_operations(kept, IMAGE) == pytest.approx(67.4e12, rel=0.01)
    assert step_operations(again, IMAGE) == pytest.approx(97.7e12, rel=0.01)
    twelve = plan(
        "h200", LARGE, gradient_accumulation_steps=3, **settings | {"train_batch_size": 4}
    )
    assert step_operations(twelve, IMAGE) == pytest.approx(12 * 97.7e12, rel=0.01)
    full = plan("mi300x", MEDIUM, model_type="full", **settings)
    assert step_operations(full, IMAGE) > step_operations(plan("mi300x", **settings), IMAGE)


@pytest.mark.parametrize(
    "model, settings, seconds",
    [
        (LARGE, {"train_batch_size": 4, "lora_rank": 16}, 1.462),
        (MEDIUM, {"train_batch_size": 3, "lora_rank": 128}, 0.561),
        (MEDIUM, {"train_batch_size": 3, "lora_rank": 128, "gradient_checkpointing": False}, 0.409),
        (LARGE, {"train_batch_size": 1, "base_model_precision": "int8-quanto"}, 0.554),
        (LARGE, {"train_batch_size": 1, "base_model_precision": "int2-quanto"}, 1.058),
    ],
)
def test_the_range_of_a_step_holds_what_an_h200_took(
    model: str, settings: dict[str, Any], seconds: float
) -> None:
    step = step_duration(plan("h200", model, **settings), IMAGE)
    assert step is not None and step.shortest < seconds < step.longest < 3 * seconds


def test_small_batches_of_4_bit_weights_hold_what_an_h200_took() -> None:
    """SD3.5 large in nf4 at 512 px, rank 1: 0.742 s a step."""
    settings: dict[str, Any] = {"base_model_precision": "nf4-bnb", "train_batch_size": 1}
    step = step_duration(plan("h200", LARGE, side=512, lora_rank=1, **settings), 1024)
    assert step is not None and step.shortest < 0.742 < step.longest


def test_a_run_takes_its_steps_and_an_unknown_rate_gives_no_time() -> None:
    run, step = plan("rtx4090", max_train_steps=50), plan("rtx4090", max_train_steps=1)
    whole, one = run_duration(run, IMAGE), run_duration(step, IMAGE)
    assert whole is not None and one is not None
    assert whole.longest == pytest.approx(50 * one.longest)
    assert run_duration(plan("m3-max"), IMAGE) is None


def test_a_duration_is_said_in_the_unit_that_suits_it() -> None:
    assert spoken(Duration(0.5, 20)) == "0.5 to 20 s"
    assert spoken(Duration(30 * 60, 80 * 60)) == "30 to 80 min"
    assert spoken(Duration(3600, 3 * 3600)) == "1.0 to 3.0 h"
