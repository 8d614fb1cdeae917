"""What blocks keep for the backward pass: the quickest choice that fits, and its reasons."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from sd3tune.backends.decide import chips, speeds
from sd3tune.config.config import Config
from sd3tune.errors import PlanError
from sd3tune.plan.block_keeping import Keep, at_interval, fastest, mixed, summary
from sd3tune.plan.duration import step_seconds
from sd3tune.plan.memory import Load, estimate
from sd3tune.plan.plan import Plan
from sd3tune.plan.step_work import linear_again
from sd3tune.sd3.models import find
from tests.plans import LARGE, MEDIUM, plan

GIB = 2**30
INPUTS: Keep = "inputs"
ATTENTION: Keep = "attention"
EVERYTHING: Keep = "everything"


def load_of(model: str, **settings: Any) -> Load:
    settings = {"train_batch_size": 4, "gradient_checkpointing_keep": "inputs", **settings}
    return plan("h200", model, **settings).memory.load


def hand_made(layers: int) -> list[tuple[Keep, ...]]:
    """Eight settings that somebody might write down."""
    half = layers // 2
    return [
        (INPUTS,) * layers,
        (ATTENTION,) * layers,
        (EVERYTHING,) * layers,
        at_interval(layers, 2),
        tuple(ATTENTION if k == INPUTS else k for k in at_interval(layers, 2)),
        at_interval(layers, 4),
        mixed(layers, half, 0),
        mixed(layers, half, layers - half),
    ]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("model, tokens", list(product([LARGE, MEDIUM], [1024, 4096])))
@pytest.mark.parametrize("gib", [12, 16, 20, 24, 32, 48, 64, 80])
def test_the_choice_is_within_two_percent_of_the_best(
    model: str, tokens: int, gib: int, compiled: bool
) -> None:
    """Of eight settings made by hand, and of all numbers of blocks that keep everything or
    attention."""
    shape = find(model).transformer
    load = replace(load_of(model), tokens=tokens, compiled=compiled)
    speed = speeds.catalogued(chips.chip("h200"))
    assert speed is not None

    def fits(changed: Load) -> bool:
        return estimate(find(model), changed).training <= gib * GIB

    def seconds(changed: Load) -> float:
        return step_seconds(shape, changed, speed)

    keep = fastest(shape.layers, load, fits, seconds, attention=True, everything=True)
    n = shape.layers
    counts = [(e, a) for e in range(0, n + 1, 3) for a in {0, (n - e) // 2, n - e}]
    every = [*hand_made(n), *(mixed(n, e, a) for e, a in counts)]
    possible = [loaded for k in every if fits(loaded := replace(load, keep=k))]
    if not possible:
        assert set(keep) == {INPUTS}
        return
    assert fits(replace(load, keep=keep))
    assert seconds(replace(load, keep=keep)) <= 1.02 * min(map(seconds, possible))


def test_what_blocks_keep_is_counted_in_bytes_and_operations() -> None:
    """SD3.5 large at 1024 px, batch 4: 21 MB a block and image for bf16 outputs of 4327 tokens and
    2432 channels, and four bytes a token and head; 6.9 of 30.25 TFLOP are attention."""
    model = find(LARGE)
    load = replace(load_of(LARGE), tokens=4096, text_tokens=154)
    least, some = (replace(load, keep=(k,) * 38) for k in (INPUTS, ATTENTION))
    more = estimate(model, some).activations - estimate(model, least).activations
    outputs = 4 * 4327 * (2432 * 2 + 38 * 4)
    assert more == pytest.approx(37 * outputs, rel=0.01)  # the block that is computed has its own


def test_compiled_blocks_that_keep_attention_leave_out_what_no_gradient_needs() -> None:
    """The last layer of the feed-forward networks: a third of a block's products, a quarter with a
    second attention. A gate that trains needs its output."""
    shape = find(LARGE).transformer
    load = replace(load_of(LARGE), keep=(ATTENTION,) * 38, compiled=True)
    assert linear_again(shape, load, 4096) == pytest.approx(2 / 3, abs=0.01)
    medium = replace(load, keep=(ATTENTION,) * 24)
    expected = 1 - (13 / 24 / 4 + 11 / 24 / 3)  # by the number of blocks
    assert linear_again(find(MEDIUM).transformer, medium, 4096) == pytest.approx(expected, abs=0.02)
    for other in (
        replace(load, compiled=False),
        replace(load, keep=(INPUTS,) * 38),
        replace(load, full=True),
        replace(load, targets=("norm1.linear",)),
    ):
        assert linear_again(shape, other, 4096) == 1
    assert linear_again(shape, replace(load, keep=(EVERYTHING,) * 38), 4096) == 0


def planned(chip: str = "h200", model: str = LARGE, **settings: Any) -> Plan:
    return plan(chip, model, **{"train_batch_size": 4} | settings)


def kept(made: Plan) -> str:
    return summary(made.memory.keep.value)


def test_auto_keeps_as_much_as_fits_and_says_what_it_brings() -> None:
    made = planned()
    assert kept(made) == "everything" and not made.memory.checkpointing.value
    assert "every block keeps inputs" in made.memory.keep.reason, "what it would take otherwise"
    some = planned("rtx4090", MEDIUM, batch_split=1)
    assert 0 < some.memory.keep.value.count("everything") < 24
    assert some.memory.keep.value == tuple(sorted(
        some.memory.keep.value, key=("inputs", "attention", "everything").index
    )), "the backward pass frees the last blocks first"  # fmt: skip


def test_a_user_who_asks_for_checkpointing_gets_it() -> None:
    assert kept(planned(gradient_checkpointing=True)) == "attention"
    assert kept(planned(gradient_checkpointing_keep="inputs")) == "inputs"
    assert kept(planned(gradient_checkpointing_keep="attention")) == "attention"
    assert kept(planned(gradient_checkpointing=False)) == "everything"
    second = planned(gradient_checkpointing_interval=2)
    assert second.memory.keep.value == at_interval(38, 2)
    assert kept(planned(gradient_checkpointing_interval=2, gradient_checkpointing_keep="attention")
                ) == "everything in 19 blocks, attention in 19"  # fmt: skip
    assert kept(planned(gradient_checkpointing_backend="unsloth")) == "inputs"
    assert kept(planned(blocks_to_swap=4)) == "attention"


@pytest.mark.parametrize(
    "chip, settings, words",
    [
        ("h200", {"attention_mechanism": "native-math"}, "no small output"),
        ("h200", {"dynamo_backend": "inductor", "blocks_to_swap": 4}, "swapped weights"),
        ("h200", {"dynamo_backend": "inductor", "gradient_checkpointing_backend": "unsloth"},
         "inputs on the device"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_kept_are_refused(
    chip: str, settings: dict[str, Any], words: str
) -> None:
    settings = {"train_batch_size": 1} | settings
    with pytest.raises(PlanError, match=words):
        plan(chip, MEDIUM, gradient_checkpointing_keep="attention", **settings)
    assert "attention" not in plan(chip, MEDIUM, **settings).memory.keep.value


@pytest.mark.parametrize("card", ["rtx3060", "rtx4070", "rtx4090"])
def test_compiled_blocks_that_are_asked_to_keep_attention_are_not_swapped(card: str) -> None:
    """Where nothing but swapping would make room, too."""
    made = plan(card, LARGE, train_batch_size=1, dynamo_backend="inductor",
                base_model_precision="int8-quanto",
                gradient_checkpointing_keep="attention")  # fmt: skip
    assert kept(made) == "attention" and not made.memory.load.swapped


def test_a_small_card_keeps_the_inputs_alone() -> None:
    made = planned("rtx3060", LARGE, train_batch_size=1, base_model_precision="int2-quanto")
    assert made.memory.estimate.training <= 0.92 * (made.facts.weakest.room_bytes or 0) or (
        kept(made) == "inputs"
    )


def test_a_setting_of_checkpointing_needs_checkpointing() -> None:
    with pytest.raises(ValueError, match="needs gradient_checkpointing=true"):
        Config(output_dir="o", data_backend_config="d", max_train_steps=1,
               gradient_checkpointing=False, gradient_checkpointing_keep="attention")  # fmt: skip
