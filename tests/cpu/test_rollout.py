"""Scheduled sampling and ReflexFlow against fields that are known and a float64 re-derivation."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from sd3tune.plan.objective import LossPlan, ReflexWeights, Rollout
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3 import flow
from sd3tune.train.begin import begin
from sd3tune.train.losses import losses
from sd3tune.train.noise import draw
from sd3tune.train.recipe import Recipe
from sd3tune.train.rollout import offsets, roll
from sd3tune.train.step import train_step
from tests.cpu.known import Known, batch, curved

ALWAYS = Rollout(20, probability=1.0)


def recipe(rollout: Rollout | None) -> Recipe:
    return Recipe(0, LossPlan(rollout=rollout), None, "diffusers", max_grad_norm=0.0)


def euler(field, x0, eps, s: float, offset: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """One image in float64, by the definition."""
    level = s + offset / 1000
    z = (1 - level) * x0 + level * eps
    for k in range(offset, 0, -1):
        z = z - field(z, 1000 * (s + k / 1000)) / 1000
    return z  # type: ignore[no-any-return]


def test_the_true_velocity_leads_exactly_back_to_the_path() -> None:
    one = batch(1, 2, 3)
    eps = draw(0, 0, one).eps
    truth = eps - one.latents

    def field(z: torch.Tensor, t: torch.Tensor, condition: tuple[torch.Tensor]) -> torch.Tensor:
        return truth[condition[0].long()[:, 0] - 1]  # each image's own

    s = torch.tensor([0.2, 0.5, 0.7])
    got = roll(field, one.latents, (one.pooled,), eps, s, [0, 3, 250])
    torch.testing.assert_close(got, flow.add_noise(one.latents, eps, s), rtol=0, atol=5e-5)


def test_a_rollout_is_euler_in_float64_whatever_the_batch() -> None:
    one, steps, s = batch(1, 2, 3), [40, 0, 7], torch.tensor([0.3, 0.5, 0.9])
    eps = draw(0, 0, one).eps
    calls: Counter[int] = Counter()

    def field(z: torch.Tensor, t: torch.Tensor, condition: tuple[torch.Tensor]) -> torch.Tensor:
        calls.update(condition[0].long()[:, 0].tolist())
        return curved(z, t, condition[0])

    got = roll(field, one.latents, (one.pooled,), eps, s, steps)
    assert calls == {1: 40, 3: 7}
    for i, (level, offset) in enumerate(zip(s.tolist(), steps, strict=True)):
        x0, e = one.latents[i].double().numpy(), eps[i].double().numpy()
        pooled = float(one.pooled[i])
        want = euler(lambda z, t, p=pooled: np.tanh(z) * t / 500 + 0.1 * p, x0, e, level, offset)
        np.testing.assert_allclose(got[i], want, atol=2e-5)
    alone = roll(field, one.latents[2:], (one.pooled[2:],), eps[2:], s[2:], steps[2:])
    torch.testing.assert_close(alone[0], got[2])


def test_the_share_rolled_out_follows_its_ramp_and_a_start_of_nothing_is_honoured() -> None:
    ramp = Rollout(4, probability=0.9, begin=0.0, end=0.5, ramp_steps=100, start_step=10)
    assert [ramp.chance(s) for s in (0, 9, 10, 60, 110, 999)] == [0, 0, 0, 0.25, 0.5, 0.5]
    cosine = replace(ramp, shape="cosine", begin=0.1)
    want = [0.1, 0.1 + 0.4 * (1 - np.cos(np.pi / 4)) / 2, 0.3, 0.5]
    assert [cosine.chance(s) for s in (10, 35, 60, 110)] == pytest.approx(want)
    flat = Rollout(4, probability=0.9, start_step=10)
    assert [flat.chance(s) for s in (0, 9, 10, 999)] == [0, 0, 0.9, 0.9]
    many, low = batch(*range(2000), size=2), torch.full((2000,), 0.5)
    counts = [sum(o > 0 for o in offsets(ramp, 0, step, many, low)) for step in (10, 60, 110)]
    assert counts[0] == 0 and abs(counts[1] - 500) < 80 and abs(counts[2] - 1000) < 90


@pytest.mark.parametrize(
    "strategy, shares",
    [("uniform", [1, 1, 1, 1]), ("biased_early", [4, 3, 2, 1]), ("biased_late", [1, 2, 3, 4])],
)
def test_strategies_have_the_distributions_of_the_documentation(
    strategy: str, shares: list[int]
) -> None:
    how = Rollout(4, strategy=strategy)  # type: ignore[arg-type]
    found = Counter(how.steps((i + 0.5) / 8000) for i in range(8000))
    assert [found[k] for k in (1, 2, 3, 4)] == [8000 * n // sum(shares) for n in shares]


def test_no_rollout_begins_beyond_pure_noise() -> None:
    levels = torch.tensor([0.9955, 0.9995, 0.5])
    far = Rollout(900, probability=1.0, strategy="biased_late")
    found = offsets(far, 0, 0, batch(1, 2, 3, size=2), levels)
    assert found[0] <= 4 and found[1] == 0 and 1 < found[2] <= 500


def test_offsets_belong_to_seed_step_and_image() -> None:
    s = torch.tensor([0.5, 0.5, 0.5])
    of = partial(offsets, ALWAYS)
    assert of(0, 3, batch(1, 2, 3), s) == of(0, 3, batch(3, 2, 1), s)[::-1]
    assert of(0, 3, batch(1, 2, 3), s) != of(0, 4, batch(1, 2, 3), s)


@pytest.mark.parametrize("masked", [False, True])
def test_reflexflow_s_loss_is_its_equations_in_float64(masked: bool) -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :5] = 1
    one = batch(1, 2, mask=mask if masked else None)
    reflex = ReflexWeights(alpha=300.0, beta1=2.0, beta2=0.5)
    found = losses(Known(curved).trained, one, recipe(replace(ALWAYS, reflex=reflex)), 1)
    eps = draw(0, 1, one).eps
    away = offsets(ALWAYS, 0, 1, one, found.levels)
    assert min(away) > 0
    for i in range(2):
        x0, e = one.latents[i].double().numpy(), eps[i].double().numpy()
        s, pooled = float(found.levels[i]), float(one.pooled[i])
        m = mask[i].double().numpy() if masked else np.ones((1, 8, 8))

        def field(z: np.ndarray, t: float, p: float = pooled) -> Any:
            return np.tanh(z) * t / 500 + 0.1 * p

        zr = euler(field, x0, e, s, away[i])
        clean, rolled = field((1 - s) * x0 + s * e, 1000 * s), field(zr, 1000 * s)
        b = clean - rolled
        w = 1 + 300 * b / np.abs(b).sum()
        v, d = rolled * m, (zr - x0) * m
        drift = np.square(v / np.sqrt((v * v).sum()) - d / np.sqrt((d * d).sum())).sum()
        want = 0.5 * (w * m * np.square(rolled - (e - x0))).mean() + 2 * drift
        assert found.each[i].item() == pytest.approx(want, rel=1e-4)
        assert np.abs(w - 1).max() > 0.05  # the weight is not lost in the tolerance


def test_reflexflow_finds_nothing_to_rectify_in_the_true_velocity() -> None:
    one = batch(1, 2, 3)
    eps = draw(0, 0, one).eps
    net = Known(lambda z, t, pooled: (eps - one.latents)[pooled.long()[:, 0] - 1])
    how = replace(ALWAYS, reflex=ReflexWeights())
    assert losses(net.trained, one, recipe(how), 0).each.max() < 1e-6
    wrong = Known(lambda z, t, pooled: (one.latents - eps)[pooled.long()[:, 0] - 1])
    opposite = losses(wrong.trained, one, recipe(how), 0).each
    plain = losses(wrong.trained, one, recipe(ALWAYS), 0).each
    torch.testing.assert_close(opposite - plain, torch.full((3,), 40.0))  # |p - (-p)|^2 = 4


def test_images_that_stay_on_the_path_have_the_plain_loss() -> None:
    one, some = batch(*range(8)), replace(ALWAYS, probability=0.5, reflex=ReflexWeights())
    found = losses(Known(curved).trained, one, recipe(some), 2)
    plain = losses(Known(curved).trained, one, recipe(None), 2)
    stays = [o == 0 for o in offsets(some, 0, 2, one, found.levels)]
    assert 0 < sum(stays) < 8
    assert [bool(x) for x in torch.isclose(found.each, plain.each)] == stays


def test_rollouts_need_no_gradient_and_no_dropout_and_regularisation_has_none() -> None:
    net = Known(curved).train()
    how = recipe(Rollout(3, probability=1.0, reflex=ReflexWeights()))
    losses(net.trained, batch(1, 2), how, 0)
    *before, last = [(c["training"], c["grad"]) for c in net.calls]
    assert len(before) >= 3 and set(before) == {(False, False)} and last == (True, True)
    assert net.training
    net.calls.clear()
    losses(net.trained, batch(1, 2, regularisation=True), how, 0)
    assert len(net.calls) == 2  # teacher and student, nothing rolled out


@pytest.mark.slow
def test_rolled_out_images_train_every_weight_of_the_real_model_under_autocast(prepared) -> None:  # type: ignore[no-untyped-def]
    plan = prepared("scheduled_sampling_max_step_offset=2", "scheduled_sampling_probability=1",
                    "max_train_steps=2", "lr_warmup_steps=0").plan  # fmt: skip
    state, how = begin(plan, ALONE_ON_CPU), Recipe.of(plan)
    how = replace(how, autocast=torch.bfloat16)
    assert how.loss.rollout == Rollout(2, probability=1.0, reflex=ReflexWeights())
    one = replace(batch(1, 2), pooled=torch.randn(2, 80))
    assert train_step(state, [one], how).grad_norm > 0
    losses(state.trained, one, how, 1).each.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in state.trainable)
