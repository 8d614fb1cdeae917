"""How long a step takes, against counts and measurements of another hand."""

from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.speeds import Speed, figures_of, speed
from sd3tune.plan.duration import (
    Duration,
    run_duration,
    spoken,
    step_duration,
    step_operations,
    step_seconds,
)
from sd3tune.plan.step_work import forward
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


@pytest.mark.parametrize(
    "model, kept_operations, again_operations",
    [(LARGE, 67.4e12, 97.7e12), (MEDIUM, 26.1e12, 37e12)],
)
def test_a_step_counts_the_backward_pass_and_checkpointed_blocks(
    model: str, kept_operations: float, again_operations: float
) -> None:
    """FlopCounterMode of a LoRA step of one image, nothing and every block recomputed."""
    settings: dict[str, Any] = {"tokenizer_max_length": TEXT, "train_batch_size": 1}
    kept = plan("h200", model, gradient_checkpointing=False, **settings)
    again = plan("h200", model, gradient_checkpointing_keep="inputs", **settings)
    assert step_operations(kept, IMAGE) == pytest.approx(kept_operations, rel=0.01)
    assert step_operations(again, IMAGE) == pytest.approx(again_operations, rel=0.01)


def test_a_step_counts_every_image_and_the_gradients_of_trained_weights() -> None:
    settings: dict[str, Any] = {"tokenizer_max_length": TEXT, "gradient_checkpointing": True}
    one = plan("h200", LARGE, train_batch_size=1, **settings)
    twelve = plan("h200", LARGE, gradient_accumulation_steps=3, train_batch_size=4, **settings)
    assert step_operations(twelve, IMAGE) == pytest.approx(12 * step_operations(one, IMAGE))
    full = plan("mi300x", MEDIUM, model_type="full", **settings)
    lora = plan("mi300x", MEDIUM, **settings)
    # 6.9 TFLOP of linear layers more, of 37.0.
    ratio = step_operations(full, IMAGE) / step_operations(lora, IMAGE)
    assert ratio == pytest.approx(1 + 6.9 / 37.0, rel=0.02)


RECIPE = {"train_batch_size": 3, "lora_rank": 128, "gradient_checkpointing": True}
EIGHT, TWO = "int8-quanto", "int2-quanto"


@pytest.mark.parametrize(
    "model, settings, seconds",
    [
        (LARGE, {"train_batch_size": 4, "lora_rank": 16}, 1.462),
        (MEDIUM, RECIPE, 0.561),
        (MEDIUM, RECIPE | {"gradient_checkpointing": False}, 0.409),
        (MEDIUM, {"train_batch_size": 4, "lora_rank": 16}, 0.726),
        (LARGE, {"train_batch_size": 1, "base_model_precision": EIGHT}, 0.554),
        (LARGE, {"train_batch_size": 1, "base_model_precision": TWO}, 1.058),
    ],
)
def test_a_step_takes_what_an_h200_took(
    model: str, settings: dict[str, Any], seconds: float
) -> None:
    """Within 5 %; the fourth row and those of other cards were not fitted."""
    settings = {"tokenizer_max_length": TEXT, "gradient_checkpointing": True} | settings
    if settings["gradient_checkpointing"]:
        settings |= {"gradient_checkpointing_keep": "inputs"}
    step = step_duration(plan("h200", model, **settings), IMAGE)
    assert step is not None and step.seconds == pytest.approx(seconds, rel=0.05)


def test_a_step_of_4_bit_weights_takes_what_an_h200_took() -> None:
    """SD3.5 large in nf4 at 512 px, rank 1: 0.742 s a step."""
    settings: dict[str, Any] = {"base_model_precision": "nf4-bnb", "train_batch_size": 1}
    settings |= {"side": 512, "lora_rank": 1, "tokenizer_max_length": TEXT}
    step = step_duration(plan("h200", LARGE, gradient_checkpointing=True, **settings), 1024)
    assert step is not None and step.seconds == pytest.approx(0.742, rel=0.05)


@pytest.mark.parametrize(
    "chip, checkpointing, seconds",
    [("h100", False, 0.529), ("h100", True, 0.721), ("l40s", False, 1.189), ("l40s", True, 1.607)],
)
def test_a_step_is_near_what_another_trainer_publishes(
    chip: str, checkpointing: bool, seconds: float
) -> None:
    """SimpleTuner's table of SD3.5 medium, batch 3, rank 128. No row of the H100 was fitted."""
    settings: dict[str, Any] = RECIPE | {"gradient_checkpointing": checkpointing}
    settings["tokenizer_max_length"] = TEXT
    if checkpointing:
        settings["gradient_checkpointing_keep"] = "inputs"
    step = step_duration(plan(chip, MEDIUM, **settings), IMAGE)
    assert step is not None and step.shortest < seconds < step.longest
    assert step.seconds == pytest.approx(seconds, rel=0.08)


def test_a_measured_speed_wins_over_the_data_sheet() -> None:
    words = "matmul 400 TFLOP/s, attention 140 TFLOP/s, memory 2000 GB/s, 5 us a kernel"
    facts = chips.facts(chips.chip("h200"))
    here = speed(replace(facts, rates=figures_of(words)))
    sheet = speed(facts)
    assert here is not None and sheet is not None
    assert here.matmul == pytest.approx(0.85 * 400e12) and here.attention == 140e12
    assert here.source == "measured on this machine" != sheet.source
    assert figures_of("matmul 400 TFLOP/s, attention 140 TFLOP/s") == {}


def test_an_optimizer_reaches_the_whole_bandwidth_that_was_measured_on_a_processor() -> None:
    """AdamW over 77 million float32 values, with clipping, takes 0.2 s of a processor that moves 25
    GB/s in one long kernel; short ones reach a third of that."""
    known = Speed(1e11, 7e10, 0.35 * 25e9, 2e-5, 1e10, 0.3, "measured", True, streaming=25e9)
    load = plan("h200", model_type="full", train_batch_size=1).memory.load
    times = [
        step_seconds(SD35_MEDIUM, replace(load, trained=n), known, 64) for n in (0, 77 * 10**6)
    ]
    assert times[1] - times[0] == pytest.approx(0.2, rel=0.15)


def test_every_chip_of_the_catalogue_has_a_speed() -> None:
    speeds = {chip.key: speed(chips.facts(chip)) for chip in chips.CHIPS}
    assert None not in speeds.values()
    near = {key for key, known in speeds.items() if known is not None and known.error < 0.3}
    assert near == {"h100", "h100-pcie", "h100-nvl", "gh200", "h200"}  # only an H200 was measured


def test_a_run_takes_its_steps() -> None:
    run, step = plan("rtx4090", max_train_steps=50), plan("rtx4090", max_train_steps=1)
    whole, one = run_duration(run, IMAGE), run_duration(step, IMAGE)
    assert whole is not None and one is not None
    assert whole.longest == pytest.approx(50 * one.longest)


def test_a_duration_is_said_in_the_unit_that_suits_it() -> None:
    assert spoken(Duration(10, 1.0)) == "5.0 to 20 s"
    assert spoken(Duration(50 * 60, 0.6)) == "31 to 80 min"
    assert spoken(Duration(2 * 3600, 0.5)) == "1.3 to 3.0 h"
