"""Noise levels against scipy, diffusers and the words of the documentation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from scipy.interpolate import PchipInterpolator
from scipy.stats import beta, kstest, norm

from sd3tune.encode.caches import Caches
from sd3tune.plan.objective import NoiseLevels
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sample.schedulers import scheduler
from sd3tune.sd3 import flow
from sd3tune.sd3.variants import tokens
from sd3tune.train import cubic
from sd3tune.train.noise import another, draw, draw_levels
from tests.cpu.conftest import Project
from tests.cpu.known import batch

U = (torch.arange(20_000) + 0.5) / 20_000
MANY = batch(*range(3000), size=2)


def levels(how: NoiseLevels, step: int = 0) -> np.ndarray:
    u = draw(0, step, MANY).u
    return draw_levels(how, 0, step, MANY, u).double().numpy()


def test_beta_levels_have_the_beta_distribution_and_are_shifted_after() -> None:
    plain = levels(NoiseLevels(beta=(2.0, 5.0)))
    assert kstest(plain, beta(2, 5).cdf).pvalue > 0.01
    shifted = levels(NoiseLevels(beta=(2.0, 5.0), shift=3.0))
    np.testing.assert_allclose(shifted, 3 * plain / (1 + 2 * plain), rtol=1e-5)


def test_uniform_and_logit_normal_levels_have_their_distributions() -> None:
    assert kstest(levels(NoiseLevels(uniform=True)), "uniform").pvalue > 0.01
    logits = np.log(s := levels(NoiseLevels(scale=0.7))) - np.log1p(-s)
    assert kstest(logits, norm(0, 0.7).cdf).pvalue > 0.01


@pytest.mark.parametrize("weights", [(1.0, 3.0, 2.0), (5.0, 1.0), (0.1, 1.0, 0.1, 4.0, 1.0)])
def test_cubic_levels_follow_scipy_s_pchip_and_share_draws_as_weighted(
    weights: tuple[float, ...],
) -> None:
    borders = np.concatenate([[0], np.cumsum(weights) / sum(weights)])
    curve = PchipInterpolator(borders, np.linspace(0, 1, len(weights) + 1))
    found = cubic.quantile(U, weights)
    np.testing.assert_allclose(found, curve(U.double()), atol=1e-6)
    assert (found.diff() > 0).all()
    counts = np.histogram(found, bins=len(weights), range=(0, 1))[0]
    np.testing.assert_allclose(counts / len(U), np.array(weights) / sum(weights), atol=2e-4)


def test_custom_timesteps_are_drawn_alike_and_never_shifted() -> None:
    found = levels(NoiseLevels(listed=(0.25, 0.5, 0.75), shift=3.0))
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75]
    assert all(abs(n - 1000) < 4 * math.sqrt(1000) for n in counts)


def test_round_robin_walks_every_image_through_the_list_in_order() -> None:
    how = NoiseLevels(listed=(0.1, 0.4, 0.8), in_turn=True)
    found = np.stack([levels(how, step) for step in range(6)]).round(3)
    start = [(0.1, 0.4, 0.8).index(x) for x in found[0]]
    assert set(start) == {0, 1, 2}  # a batch sees all of them at once
    for step, row in enumerate(found):
        assert row.tolist() == [(0.1, 0.4, 0.8)[(s + step) % 3] for s in start]


@pytest.mark.parametrize(
    "how",
    [NoiseLevels(), NoiseLevels(uniform=True), NoiseLevels(beta=(2, 2)),
     NoiseLevels(weights=(1, 2)),
     NoiseLevels(listed=(0.1, 0.9, 0.5)), NoiseLevels(listed=(0.1, 0.9, 0.5), in_turn=True)],
)  # fmt: skip
def test_a_level_belongs_to_seed_step_and_image_not_to_the_batch(how: NoiseLevels) -> None:
    def of(seed: int, step: int, *ids: int) -> list[float]:
        one = batch(*ids, size=2)
        return draw_levels(how, seed, step, one, draw(seed, step, one).u).tolist()

    assert of(0, 3, 1, 2, 3) == of(0, 3, 3, 1, 2)[1:] + of(0, 3, 3)
    assert of(0, 3, *range(9)) != of(0, 4, *range(9))
    assert of(0, 3, *range(9)) != of(1, 3, *range(9))


@pytest.mark.parametrize(
    "how",
    [NoiseLevels(), NoiseLevels(uniform=True), NoiseLevels(beta=(2, 2)),
     NoiseLevels(weights=(1, 2)), NoiseLevels(listed=(0.1, 0.9, 0.5, 0.3), in_turn=True)],
)  # fmt: skip
def test_each_twin_has_a_level_of_its_own_and_the_first_one_the_image_s(how: NoiseLevels) -> None:
    four = replace(batch(7, 7, 7, 7, size=2), occurrences=(0, 1, 2, 3))
    noise = draw(0, 3, four)
    found = draw_levels(how, 0, 3, four, noise.u).tolist()
    assert len(set(found)) == 4 and len(set(noise.digests)) == 4
    alone = batch(7, size=2)
    assert draw_levels(how, 0, 3, alone, draw(0, 3, alone).u).tolist() == found[:1]
    assert draw(0, 3, alone).digests == noise.digests[:1]
    assert len({another(0, 3, four, "more")[i].sum().item() for i in range(4)}) == 4


def test_noise_of_an_image_without_twins_is_the_recorded_one() -> None:
    """Recorded before the occurrence was part of the seeds: runs of then continue as they began."""
    assert draw(3, 5, batch(11, 22, size=4)).digests == (856153157806597010, 10789501541021180506)


@pytest.mark.slow
def test_offset_of_a_dataset_moves_the_normal_number_and_so_the_levels(project: Project) -> None:
    for i in range(4):
        project.picture(f"{i}.png", i)
    project.dataset["timestep_sampling_offset"] = 0.5
    caches = Caches.of(project.prepare("flow_sigmoid_scale=0.8"))
    loader = caches.loader(ALONE_ON_CPU, lambda epoch: None)
    sample = caches.prepared.samples[0]
    assert loader.level_offset_of(sample) == 0.5
    one = batch(1, 2, 3, size=2, level_offset=loader.level_offset_of(sample))
    u = draw(0, 0, one).u
    logits = torch.logit(draw_levels(NoiseLevels(scale=0.8), 0, 0, one, u).double())
    want = 0.8 * (norm.ppf(u.double().numpy()) + 0.5)
    np.testing.assert_allclose(logits, want, atol=1e-5)


@pytest.mark.parametrize("width, height", [(512, 512), (1024, 1024), (1344, 768), (1536, 1536)])
def test_auto_shift_is_the_same_in_training_and_in_pictures(width: int, height: int) -> None:
    mu = calculate_shift(tokens(width, height), 256, 4096, 0.5, 1.15)  # as the pipeline calls it
    pictures = scheduler("euler", None)
    pictures.set_timesteps(sigmas=[0.9, 0.5, 0.2], mu=mu)
    one = batch(1, 2, 3, size=2)
    one = type(one)(one.ids, torch.zeros(3, 16, height // 8, width // 8), one.pooled, one.pooled)
    how = NoiseLevels(shift=None, uniform=True)
    trained = draw_levels(how, 0, 0, one, torch.tensor([0.9, 0.5, 0.2]))
    torch.testing.assert_close(pictures.sigmas[:3], trained, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_fixed_shift_is_the_same_in_training_and_in_pictures(shift: float) -> None:
    steps = scheduler("euler", shift)  # diffusers shifts its grid of 1000 levels when it is made
    s = torch.linspace(1, 1 / 1000, 1000)
    torch.testing.assert_close(steps.sigmas, flow.shifted(s, shift), rtol=1e-5, atol=1e-6)
