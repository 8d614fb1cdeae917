"""What is left open is the fastest that fits: against every combination, tried here one by one."""

import random
from dataclasses import replace

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
ROOMS = (3, 5, 7, 9, 12, 16, 20, 24, 32, 40, 48, 64, 90, 140)  # GiB


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


def every(run: RunInputs, weighed: Load) -> list[tuple[int, float]]:
    """Bytes and seconds of what blocks may keep, with the AdaLN weights here and there."""
    known, layers = speed(run.facts), run.model.transformer.layers
    assert known is not None
    tried = []
    for more in range(0, layers + 1, 4):
        for some in {0, (layers - more) // 2, layers - more}:
            for off in (False, True):
                keep = mixed(layers, more, some)
                one = replace(weighed, keep=keep, modulations_off=off)
                seconds = step_seconds(run.model.transformer, one, known, run.average_tokens)
                tried.append((estimate(run.model, one).training, seconds))
    return tried


def test_the_choice_fits_where_any_fits_and_none_that_fits_is_two_percent_faster() -> None:
    dice = random.Random(17)
    outcomes = set()
    for gib in ROOMS:
        model = find(dice.choice([MEDIUM, LARGE, SD3]))
        side, chip = dice.choice([512, 768, 1024]), dice.choice(["rtx4090", "h100", "t4"])
        run = inputs(model, chip, gib * GIB, side)
        weighed = load(dice, side, dice.choice(["no_change", "int8-quanto", "nf4-bnb"]))
        tried, room = every(run, weighed), run.room_bytes
        picked, known = fastest(run, weighed).load, speed(run.facts)
        assert known is not None and room is not None
        need = estimate(model, picked).training
        seconds = step_seconds(model.transformer, picked, known, run.average_tokens)
        if any(bytes_ <= room for bytes_, _ in tried):
            assert need <= room
        spacious = [s for bytes_, s in tried if bytes_ <= 0.9 * room]
        if spacious:
            assert seconds <= 1.02 * min(spacious)
        else:
            assert need <= min(bytes_ for bytes_, _ in tried)
        assert fastest(run, weighed).load == picked  # and again
        outcomes.add((*sorted(set(picked.keep)), picked.modulations_off))
    assert {("everything", False), ("inputs", True)} < outcomes  # none is chosen always
    assert len(outcomes) > 3


def test_the_reason_says_what_the_next_best_takes() -> None:
    made = plan("rtx4090", train_batch_size=3, lora_rank=128).memory.keep
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
