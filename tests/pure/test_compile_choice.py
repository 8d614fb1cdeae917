"""Compiling is chosen where it pays back, and the reason says with what arithmetic."""

import re
from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.decisions import decide
from sd3tune.backends.decide.rules import Request
from sd3tune.plan import compile_choice
from sd3tune.plan.block_keeping import mixed
from sd3tune.plan.compile_choice import Prospect
from sd3tune.sd3.models import find
from tests import plans


def test_a_long_run_on_a_card_is_compiled_and_a_short_one_is_not() -> None:
    short, long = (plans.plan("h100", max_train_steps=n) for n in (50, 5000))
    assert (short.hardware.compiler.value, long.hardware.compiler.value) == (None, "inductor")
    assert (short.memory.load.compiled, long.memory.load.compiled) == (False, True)
    words = long.hardware.compiler.reason
    assert re.match(r"5,000 steps x [\d.]+ s save [\d,]+ (min|s), for about 45 s of compi", words)
    assert "dynamo_backend=no would take about" in words and "untested on hardware" in words
    assert "compiling takes about 45 s" in short.hardware.compiler.reason
    assert "dynamo_backend=inductor compiles anyway" in short.hardware.compiler.reason


@pytest.mark.parametrize("steps, saved, value", [(100, 0.89, "no"), (100, 0.91, "inductor")])
def test_twice_the_cost_must_be_saved(steps: int, saved: float, value: str) -> None:
    decided = plans.plan("h100", max_train_steps=50)  # no
    expected = Prospect(steps, kinds=3, eager=2.0, compiled=2.0 - saved)
    axis: Any = decided.hardware.compiler
    found = compile_choice.choose(axis, decided.config, expected)
    assert (found.value or "no") == value


@pytest.mark.parametrize(
    "chip, settings, reason",
    [
        ("h100", {"use_dora": True}, "DoRA"),
        ("h100", {"dynamo_mode": "reduce-overhead"}, "CUDA graphs"),
        ("h100", {"blocks_to_swap": 2, "gradient_checkpointing": True}, "copies decide"),
        ("h100", {"gradient_checkpointing_keep": "attention",
                  "gradient_checkpointing_backend": "unsloth"}, "inputs on the device"),
        ("m3-max", {}, "compiled only where"),
    ],
)  # fmt: skip
def test_other_runs_are_not_compiled_and_say_why(
    chip: str, settings: dict[str, Any], reason: str
) -> None:
    compiler = plans.plan(chip, max_train_steps=50_000, **settings).hardware.compiler
    assert compiler.value is None and reason in compiler.reason


def test_processors_and_unknown_devices_are_not_compiled() -> None:
    unknown = Prospect(10**6, kinds=3, eager=None, compiled=None)
    assert "unknown" in str(compile_choice.against(unknown))
    processor = replace(chips.facts(chips.chip("h100")), vendor="cpu")
    decided = decide("dynamo_backend", processor, Request())
    (inductor,) = (r for r in decided.rejected if r.name == "inductor")
    assert "on a processor" in inductor.reasons[0] and "compiles anyway" in inductor.reasons[0]
    assert not compile_choice.is_open(decided)
    asked = decide("dynamo_backend", processor, Request(dynamo_backend="inductor"))
    assert asked.value == "inductor"


def test_what_the_user_set_holds() -> None:
    for value, backend in (("no", None), ("aot_eager", "aot_eager"), ("inductor", "inductor")):
        compiler = plans.plan("h100", dynamo_backend=value, max_train_steps=50).hardware.compiler
        assert compiler.value == backend and compiler.source.by == "user"


@pytest.mark.parametrize("model, kinds, more", [(plans.MEDIUM, 3, 4), (plans.LARGE, 2, 3)])
def test_kinds_of_blocks_are_counted_for_each_architecture(
    model: str, kinds: int, more: int
) -> None:
    """Blocks that keep the outputs of attention are compiled by themselves."""
    shape = find(model).transformer
    for what in ("inputs", "attention", "everything"):
        assert compile_choice.kinds_of_blocks(shape, (what,) * shape.layers) == kinds
    some = mixed(shape.layers, 4, shape.layers - 4)
    assert compile_choice.kinds_of_blocks(shape, some) == more


def test_outputs_of_attention_are_kept_in_compiled_blocks() -> None:
    """Asked for or left open, and the arithmetic counts the kinds that are compiled."""
    for keep in ("auto", "attention"):
        made = plans.plan("h100", max_train_steps=50_000, gradient_checkpointing=True,
                          gradient_checkpointing_keep=keep)  # fmt: skip
        assert made.hardware.compiler.value == "inductor"
        assert made.memory.load.compiled and set(made.memory.keep.value) == {"attention"}
