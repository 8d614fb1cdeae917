"""One optimizer step: accumulation, noise, schedules, bad numbers."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune.adapters.trained import take
from sd3tune.data.batch import Batch
from sd3tune.errors import Diverged
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3 import flow
from sd3tune.train.ahead import ahead
from sd3tune.train.begin import begin
from sd3tune.train.losses import losses
from sd3tune.train.noise import draw, drawn
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import train_step
from tests.cpu.batches import WORDS, batch


@pytest.mark.parametrize(
    "parts", [[batch(1), batch(2), batch(3)], [batch(1, 2), batch(3)], [batch(3, 1, 2)]]
)
def test_accumulated_batches_are_the_big_batch(parts: list[Batch], prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS).plan

    def after(batches: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
        state = begin(plan, ALONE_ON_CPU)
        taken = [train_step(state, batches, Recipe.of(plan)) for _ in range(3)]
        return taken[-1].loss, take(state.trained)

    (want, weights), (got, ours) = after([batch(1, 2, 3)]), after(parts)
    assert got == pytest.approx(want, rel=1e-5)
    for name in weights:
        torch.testing.assert_close(ours[name], weights[name], rtol=1e-3, atol=2e-5)


def test_noise_belongs_to_the_image_not_to_its_place_in_the_batch() -> None:
    one, swapped = draw(0, 3, batch(1, 2)), draw(0, 3, batch(2, 1))
    assert torch.equal(one.eps, swapped.eps.flip(0)) and torch.equal(one.u, swapped.u.flip(0))
    assert one.digests == swapped.digests[::-1] and len(set(one.digests)) == 2
    assert not torch.equal(one.eps, draw(0, 4, batch(1, 2)).eps)
    assert not torch.equal(one.eps, draw(1, 3, batch(1, 2)).eps)


def test_what_a_loader_draws_ahead_is_what_the_step_would_draw(prepared) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe.of(prepared(*WORDS).plan)
    how, state = recipe.loss.levels, SimpleNamespace(step=7, position=30)
    add = ahead(how, recipe.seed, cast("TrainState", state), per_step=2)
    for position, step in ((30, 7), (31, 7), (32, 8), (35, 9)):
        early = add(position, batch(1, 2))
        assert early.drawn is not None and early.drawn.step == step
        late = drawn(how, recipe.seed, step, batch(1, 2))
        assert torch.equal(early.drawn.eps, late.eps) and early.drawn.digests == late.digests
        assert torch.equal(early.drawn.levels, late.levels)
        assert drawn(how, recipe.seed, step, early) is early.drawn
        assert drawn(how, recipe.seed, step + 1, early).digests != late.digests


class Reads(TorchDispatchMode):
    """Counts what reads a number of a tensor, for which a program waits for its device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_its_device_once(prepared) -> None:  # type: ignore[no-untyped-def]
    """All numbers of a step are read together, by `tolist`, which is not counted here."""
    plan = prepared(*WORDS, "optimizer=optimi-lion").plan
    state = begin(plan, ALONE_ON_CPU)
    with Reads() as reads:
        train_step(state, [batch(1), batch(2)], Recipe.of(plan))
    assert reads.count == 0


def test_noise_levels_stay_on_the_cpu_which_has_float64() -> None:
    one = batch(1)
    elsewhere = Batch(one.ids, one.latents.to("meta"), one.prompt_embeds, one.pooled)
    noise = draw(0, 3, elsewhere)
    assert (noise.eps.device.type, noise.u.device.type) == ("meta", "cpu")


def test_bad_numbers_raise_before_they_reach_the_weights(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS).plan
    state = begin(plan, ALONE_ON_CPU)
    before = take(state.trained)
    broken = batch(1)
    broken.latents[0, 0, 0, 0] = float("nan")
    with pytest.raises(Diverged, match="step 1: loss nan"):
        train_step(state, [broken], Recipe.of(plan))
    after = take(state.trained)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_gradients_are_clipped_by_their_norm(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS, "max_grad_norm=1e-4").plan
    state = begin(plan, ALONE_ON_CPU)
    seen = {}

    def look(optimizer: object, *rest: object) -> None:
        gradients = [p.grad for p in state.trainable if p.grad is not None]
        seen["norm"] = math.sqrt(sum(float(g.square().sum()) for g in gradients))

    state.optimizer.register_step_pre_hook(look)
    taken = train_step(state, [batch(1, 2)], Recipe.of(plan))
    assert taken.grad_norm > 1e-3 and seen["norm"] == pytest.approx(1e-4, rel=1e-2)


def test_a_mask_weighs_the_loss_of_each_latent_without_renormalising(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS).plan
    trained, recipe = begin(plan, ALONE_ON_CPU).trained, Recipe.of(plan)
    trained.model.eval()
    one = batch(1, 2)
    left, right = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    left[..., :4], right[..., 4:] = 1, 1
    whole = losses(trained, one, recipe, 0).each
    halves = [losses(trained, replace(one, mask=m), recipe, 0).each for m in (left, right)]
    torch.testing.assert_close(halves[0] + halves[1], whole)
    assert torch.equal(losses(trained, replace(one, mask=left * 0), recipe, 0).each, torch.zeros(2))
    never = replace(recipe, loss=replace(recipe.loss, masked=0.0))
    assert torch.equal(losses(trained, replace(one, mask=left), never, 0).each, whole)
    half = replace(recipe, loss=replace(recipe.loss, masked=0.5))
    one, some = batch(1), replace(batch(1), mask=left[:1])
    pairs = [[losses(trained, b, half, step).each for b in (one, some)] for step in range(40)]
    seen = [torch.equal(a, b) for a, b in pairs]
    assert 10 < sum(seen) < 30


def test_half_a_mask_over_an_error_of_one_is_half_a_loss() -> None:
    x0, eps = torch.zeros(1, 16, 128, 128), torch.zeros(1, 16, 128, 128)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    terms = flow.Terms(weight=mask)
    got = flow.loss(lambda z, t, c: torch.ones_like(z), x0, None, eps, torch.ones(1), terms)
    assert got.tolist() == [0.5]


def test_regularisation_aims_at_what_the_model_said_without_its_adapter(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*WORDS).plan
    state, recipe = begin(plan, ALONE_ON_CPU), Recipe.of(plan)
    kept = replace(batch(1, 2), regularisation=True)
    assert torch.equal(
        losses(state.trained, kept, recipe, 0).each.detach(), torch.zeros(2)
    )  # fresh
    for _ in range(3):
        train_step(state, [batch(1, 2)], recipe)
    state.model.eval()
    before = losses(state.trained, kept, recipe, 0).each.sum()
    assert before > 0
    before.backward()
    with torch.no_grad():
        for p in state.trainable:
            assert p.grad is not None
            p.sub_(10 * p.grad)
    after = losses(state.trained, kept, recipe, 0).each.sum()
    assert after < 0.99 * before
