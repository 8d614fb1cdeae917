"""The loss before and after training, on fixed images: measured in batches, and when it is right
to measure it."""

from dataclasses import replace

import pytest

from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train import evaluation
from sd3tune.train.begin import begin
from sd3tune.train.evaluation import FixedImages, before_training
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import train_step
from tests.cpu.batches import WORDS, batch

SMALL = tuple(batch(i).each(lambda t: t.float()) for i in (1, 2, 3))
WIDE = tuple(
    replace(each, ids=(each.ids[0] + 10,), latents=each.latents.repeat(1, 1, 1, 2))
    for each in SMALL[:2]
)
MIXED = (SMALL[0], WIDE[0], SMALL[1], WIDE[1], SMALL[2])


def started(prepared, *words: str) -> tuple[TrainState, Recipe]:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS, *words).plan
    return begin(plan, ALONE_ON_CPU), Recipe.of(plan)


def test_images_in_one_forward_pass_have_the_loss_that_they_have_alone(prepared) -> None:  # type: ignore[no-untyped-def]
    state, recipe = started(prepared)
    calls: list[int] = []
    state.model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    alone = evaluation.evaluate(state.trained, FixedImages(MIXED, 1), recipe)
    one_by_one, calls[:] = len(calls), []
    for together in (3, 4):
        both = evaluation.evaluate(state.trained, FixedImages(MIXED, together), recipe)
        assert both == pytest.approx(alone, rel=1e-6)
    levels = len(evaluation.LEVELS)
    assert one_by_one == len(MIXED) * levels
    assert len(calls) == (5 + 4) + (4 + 3), "15 and 10 images of a size, in groups of 3, then of 4"


def test_an_adapter_is_trained_before_its_base_is_measured(prepared) -> None:  # type: ignore[no-untyped-def]
    """And the base is what it was, because the adapter is off."""
    state, recipe = started(prepared)
    images = FixedImages(SMALL, 2)
    want = evaluation.evaluate(state.trained, images, recipe)
    (chore,) = before_training(state, images, recipe)
    assert state.loss_before is None and chore.due(state)
    for _ in range(3):
        train_step(state, [batch(1, 2)], recipe)
    assert evaluation.evaluate(state.trained, images, recipe) != want
    chore.do()
    assert state.loss_before == want and not chore.due(state)
    assert before_training(state, images, recipe) == [], "a checkpoint has it"


def test_whole_weights_are_measured_before_they_change(prepared) -> None:  # type: ignore[no-untyped-def]
    state, recipe = started(prepared, "model_type=full")
    images = FixedImages(SMALL[:1], 1)
    assert before_training(state, images, recipe) == []
    assert state.loss_before == evaluation.evaluate(state.trained, images, recipe)
