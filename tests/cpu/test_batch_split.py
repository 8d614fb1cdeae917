"""A batch in parts: the losses, gradients and noise of the whole batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sd3tune import modulations
from sd3tune.data.batch import Batch, in_parts
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train.ahead import ahead
from sd3tune.train.announcing import announced
from sd3tune.train.begin import begin
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import Taken, train_step
from tests.cpu.batches import WORDS, batch
from tests.cpu.conftest import Prepare

MASKS = ("masked_loss_probability=0.5",)
ROLLED = ("scheduled_sampling_max_step_offset=3", "scheduled_sampling_probability=0.7",
          "scheduled_sampling_reflexflow=true")  # fmt: skip


def masked(one: Batch) -> Batch:
    """Another mask for each image."""
    shape = (len(one.ids), 1, *one.latents.shape[-2:])
    return replace(one, mask=torch.rand(shape, generator=torch.Generator().manual_seed(1)))


def stepped(
    plan: Any, batches: list[Batch], most: int, *, early: bool = False
) -> tuple[Taken, dict[str, torch.Tensor], TrainState]:
    """Two steps, and the gradients of the last one. early: a loader draws the noise."""
    state = begin(plan, ALONE_ON_CPU)
    recipe = replace(Recipe.of(plan), images_per_pass=most)
    gradients: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        named = state.model.named_parameters()
        gradients.update((n, p.grad.clone()) for n, p in named if p.grad is not None)

    state.optimizer.register_step_pre_hook(look)
    draw = ahead(recipe.loss.levels, recipe.seed, state, per_step=len(batches))
    for _ in range(2):
        drawn = [draw(state.position + i, b) for i, b in enumerate(batches)] if early else batches
        taken = train_step(state, drawn, recipe)
    return taken, gradients, state


@pytest.mark.parametrize(
    ("words", "most"), [((), 1), (MASKS, 2), (ROLLED, 3)], ids=["plain", "masks", "rolled out"]
)
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(
    words: tuple[str, ...], most: int, prepared: Prepare
) -> None:
    plan = prepared(*WORDS, *words, "lora_dropout=0").plan
    batches = [batch(1, 2, 3, 4, 5), replace(batch(6, 7), regularisation=not words)]
    if words == MASKS:
        batches = [masked(one) for one in batches]
    whole, expected, before = stepped(plan, batches, 0)
    parts, got, after = stepped(plan, batches, most, early=most == 2)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert [s.loss for s in parts.seen] == pytest.approx([s.loss for s in whole.seen], rel=1e-4)
    assert [(s.id, s.noise) for s in parts.seen] == [(s.id, s.noise) for s in whole.seen]
    assert expected.keys() == got.keys() and expected
    for name in expected:
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-9)
    # A checkpoint continues with the next batch, however the batches before it were computed.
    assert (after.position, after.noise) == (before.position, before.noise)


def test_parts_are_the_images_of_the_batch_in_their_order() -> None:
    whole = masked(replace(batch(4, 2, 4, 7, 9), occurrences=(0, 0, 1, 0, 0)))
    parts = in_parts([whole, batch(5)], 2)
    assert [p.ids for p in parts] == [(4, 2), (4, 7), (9,), (5,)]
    assert [d for p in parts[:3] for d in p.draws] == list(whole.draws)
    assert torch.equal(torch.cat([p.mask for p in parts[:3] if p.mask is not None]), whole.mask)  # type: ignore[arg-type]
    assert {p.draw for p in parts[:3]} == {whole.draw}
    assert in_parts([whole], 5) == [whole] == in_parts([whole], 0)


def test_each_part_is_announced_to_modulations_outside_the_blocks(prepared: Prepare) -> None:
    plan = prepared(*WORDS, "modulations=streamed").plan
    state = begin(plan, ALONE_ON_CPU)
    outside = modulations.of(state.model)
    assert outside is not None
    recipe = replace(Recipe.of(plan), images_per_pass=2)
    batches = announced(iter([batch(1, 2, 3)] * 2), state, recipe, 1)
    left = []
    for one in batches:
        train_step(state, [one], recipe)
        left.append(len(outside._announced))
    assert left == [2, 0]  # the two parts of the second step; all were what the model was asked


@pytest.mark.slow
def test_a_run_whose_batches_are_split_ends_with_the_same_loss(run: Any, tmp_path: Path) -> None:
    words = ("max_train_steps=4", "lr_warmup_steps=0", "train_batch_size=4", "lora_dropout=0")
    whole, parts = run(*words), run(*words, "batch_split=3", f"output_dir={tmp_path}")
    assert parts.loss_after == pytest.approx(whole.loss_after, rel=1e-3)
