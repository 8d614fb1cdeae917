"""What is left open is the fastest that fits: against every combination, tried here one by one."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.speeds import speed
from sd3tune.config.config import Config
from sd3tune.plan.block_keeping import mixed
from sd3tune.plan.duration import step_seconds
from sd3tune.plan.fastest import Lever, fastest
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB, Load, estimate
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from sd3tune.sd3.variants import Model
from tests.plans import LARGE, MEDIUM, plan, samples

SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
ROOMS = (2.5, 4, 5, 7, 9, 12, 16, 20, 24, 40, 64, 140)  # GiB
SWAPPED = (0, 4, 12, 24, 38)


def inputs(model: Model, chip: str, room: int, side: int) -> RunInputs:
    """A card of that kind with `room` bytes that may be filled."""
    config = Config(output_dir="o", data_backend_config="d", max_train_steps=10)
    facts = chips.facts(chips.chip(chip))
    device = replace(facts.devices[0], usable_bytes=room)
    facts = replace(facts, devices=(device,))
    return RunInputs(config, facts, model, samples(8, (side, side)))


def load(dice: random.Random, side: int, precision: str) -> Load:
    return Load(
        vendor="cuda", base_dtype="bf16", precision=precision, trainable_dtype="fp32",
        optimizer="adamw", trained=10**7, batch=dice.randint(1, 8), tokens=(side // 16) ** 2,
        text_tokens=dice.choice([77, 154]), interval=1, swapped=0, inputs_on_host=False,
        text_dtype="bf16", text_precisions=("no_change",) * 3, autocast="bf16",
        targets=("to_q", "to_k", "to_v", "to_out.0"), rank=16, dropout=dice.random() < 0.5,
        modulations_off=True,
    )  # fmt: skip


def every(run: RunInputs, weighed: Load) -> Iterator[Load]:
    """AdaLN weights here and there, parts of the batch, swapped blocks, inputs on the host, and
    what blocks may keep: those that are swapped, never everything."""
    layers, images = run.model.transformer.layers, weighed.batch
    for off, size, swapped in product((False, True), (images, -(-images // 2), 1), SWAPPED):
        passes = -(-images // size)
        one = replace(weighed, modulations_off=off, batch=size, accumulation=passes,
                      images=images, swapped=min(swapped, layers))  # fmt: skip
        yield replace(one, keep=mixed(layers, 0, 0), inputs_on_host=True)
        for more in (0,) if swapped else range(0, layers + 1, 4):
            for some in {0, (layers - more) // 2, layers - more}:
                yield replace(one, keep=mixed(layers, more, some))


def test_the_choice_fits_where_any_fits_and_none_that_fits_is_two_percent_faster() -> None:
    dice = random.Random(17)
    outcomes: set[str] = set()
    for gib in ROOMS:
        model = find(dice.choice([MEDIUM, LARGE, SD3]))
        side, chip = dice.choice([512, 768, 1024]), dice.choice(["rtx4090", "h100", "t4"])
        run = inputs(model, chip, int(gib * GIB), side)
        weighed = load(dice, side, dice.choice(["no_change", "int8-quanto", "nf4-bnb"]))
        picked, known, shape = fastest(run, weighed).load, speed(run.facts), model.transformer
        room = run.room_bytes
        assert known is not None and room is not None
        seconds = {one: step_seconds(shape, one, known, run.average_tokens)
                   for one in [*every(run, weighed), picked]}  # fmt: skip
        need = estimate(model, picked).training
        faster = [one for one in seconds if 1.02 * seconds[one] < seconds[picked]]
        smallest = (one for one in seconds if set(one.keep) == {"inputs"} and one.batch == 1)
        least = min(map(partial(needed, model), smallest))
        if least <= room:
            assert need <= room
            assert all(needed(model, one) > 0.9 * room for one in faster)
        else:
            assert need <= least
        assert picked.images_of_step == weighed.batch
        assert fastest(run, weighed).load == picked  # and again
        outcomes |= {
            *picked.keep, f"modulations off: {picked.modulations_off}",
            f"split: {picked.images > 0}", f"swapped: {picked.swapped > 0}",
        }  # fmt: skip
    # Each lever is chosen somewhere, and not always.
    switches = {f"{name}: {on}" for name in ("modulations off", "split", "swapped")
                for on in (True, False)}  # fmt: skip
    assert {"everything", "inputs", "attention", *switches} <= outcomes


def needed(model: Model, one: Load) -> int:
    return estimate(model, one).training


def test_the_reason_says_what_the_next_best_takes() -> None:
    made = plan("rtx4090", train_batch_size=3, lora_rank=128, batch_split=1).memory.keep
    assert made.source.by == "auto" and len(set(made.value)) > 1
    assert "every block keeps everything would be" in made.reason and "but need 35." in made.reason
    roomy = plan("h200", train_batch_size=3, lora_rank=128).memory
    assert roomy.checkpointing.value is False
    assert roomy.keep.reason.startswith("every block keeps everything: 0.41 s a step, 35.")
    assert "every block keeps inputs" in roomy.keep.reason and " and need " in roomy.keep.reason


def test_weights_are_not_quantised_and_batches_not_made_smaller_to_checkpoint_less() -> None:
    """Both change what is learned; recomputing does not."""
    made = plan("rtx4090")
    kept = plan("rtx4090", gradient_checkpointing_keep="inputs")
    assert made.precision.transformer.value == kept.precision.transformer.value == "no_change"
    assert made.batch_size == kept.batch_size == 4


def test_where_the_memory_is_unknown_every_block_is_checkpointed() -> None:
    facts = chips.facts(chips.chip("h200"))
    silent = replace(facts.devices[0], total_bytes=None, usable_bytes=None)
    config = Config(output_dir="o", data_backend_config="d", max_train_steps=10)
    facts = replace(facts, devices=(silent,))
    made = resolve(RunInputs(config, facts, find(MEDIUM), samples()))
    assert set(made.memory.keep.value) == {"inputs"}


def test_a_lever_is_one_row() -> None:
    """A made-up one: half the optimizer's memory, at the price of a second image."""
    run = inputs(find(MEDIUM), "rtx4090", 10 * GIB, 1024)
    weighed = load(random.Random(3), 1024, "no_change")
    row = Lever(
        "made_up",
        lambda _, x, fits: [x, replace(x, trained=x.trained // 2, batch=x.batch + 1)],
        lambda _, x: "whole" if x.batch == weighed.batch else "half",
    )
    picked = fastest(run, weighed, (row,))
    assert picked.load.trained == weighed.trained and picked.reason.startswith("whole: ")
    full = replace(weighed, trained=10**9, batch=1, tokens=64)
    assert fastest(run, full, (row,)).load.trained == 10**9 // 2


def test_inputs_and_blocks_go_to_host_memory_where_nothing_else_makes_room() -> None:
    """And what the user set stays: 8-bit weights on 8 GB, with no block swapped, or with blocks."""
    eight: dict[str, Any] = {"base_model_precision": "int8-quanto", "train_batch_size": 1}
    waiting = plan("rtx4060", LARGE, blocks_to_swap=0, **eight).memory
    assert waiting.checkpoint_backend.value == "unsloth" and waiting.blocks_to_swap.value == 0
    assert waiting.checkpoint_backend.source.by == "auto"
    assert " a step" in waiting.checkpoint_backend.reason
    assert "wait in host memory; untested on hardware" in waiting.checkpoint_backend.reason
    swapped = plan("rtx4060", LARGE, gradient_checkpointing_backend="torch", **eight).memory
    assert swapped.checkpoint_backend.value == "torch" and swapped.blocks_to_swap.value > 0
    assert "would be" in swapped.blocks_to_swap.reason and "need" in swapped.blocks_to_swap.reason
    assert plan("rtx4060", LARGE, train_batch_size=1).memory.blocks_to_swap.value == 0
