"""The paper's equations, against float64 and against diffusers' own scheduler and pipeline."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from sd3tune.sd3 import flow

X0, EPS = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)


def test_path_starts_at_the_image_and_ends_in_noise() -> None:
    torch.testing.assert_close(flow.add_noise(X0, EPS, torch.zeros(2)), X0)
    torch.testing.assert_close(flow.add_noise(X0, EPS, torch.ones(2)), EPS)


def test_noising_is_what_diffusers_scheduler_does() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    steps = torch.tensor([100, 700])
    theirs = scheduler.scale_noise(X0, scheduler.timesteps[steps], EPS)
    torch.testing.assert_close(flow.add_noise(X0, EPS, scheduler.sigmas[steps]), theirs)


def test_timestep_is_a_thousand_sigma_as_in_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas * flow.TIMESTEPS)


def test_a_perfect_model_has_no_loss_and_a_zero_model_the_velocity_s_energy() -> None:
    s = torch.rand(2)
    assert flow.loss(lambda z, t, c: EPS - X0, X0, None, EPS, s).max() == 0
    zero = flow.loss(lambda z, t, c: torch.zeros_like(z), X0, None, EPS, s)
    want = (EPS.double() - X0.double()).square().mean((1, 2, 3))
    torch.testing.assert_close(zero.double(), want, rtol=1e-6, atol=0)


def test_model_sees_the_timestep_of_its_noise_level() -> None:
    seen = {}

    def model(z: torch.Tensor, t: torch.Tensor, c: None) -> torch.Tensor:
        seen["t"] = t
        return z

    flow.loss(model, X0, None, EPS, torch.tensor([0.25, 0.8125]))
    assert seen["t"].tolist() == [250.0, 812.5]


def test_levels_are_logit_normal() -> None:
    u = (torch.arange(20_000) + 0.5) / 20_000
    logits = torch.logit(flow.logit_normal(u).double())
    assert abs(logits.mean()) < 1e-4 and abs(logits.std() - 1) < 1e-3
    half = torch.logit(flow.logit_normal(u, 0.5).double())
    torch.testing.assert_close(half, logits * 0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("s, want", [(0.25, 0.5), (0.5, 0.75), (0.75, 0.9)])
def test_shift_of_three_moves_levels_as_the_paper_s_equation_23(s: float, want: float) -> None:
    assert flow.shifted(torch.tensor(s), 3.0).item() == pytest.approx(want)
    assert flow.shifted(torch.tensor(s), 1.0).item() == pytest.approx(s)


@pytest.mark.parametrize("pixels, mu", [(512, 0.63), (768, 0.84667), (1024, 1.15), (1536, 2.01667)])
def test_auto_shift_is_the_pipeline_s_dynamic_shift(pixels: int, mu: float) -> None:
    tokens = (pixels // 16) ** 2
    assert flow.auto_shift(tokens) == pytest.approx(math.exp(mu), rel=1e-5)
    theirs = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    assert flow.auto_shift(tokens) == pytest.approx(math.exp(theirs))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    s = torch.tensor([0.2, 0.6])
    want = scheduler.time_shift(theirs, 1.0, s)
    torch.testing.assert_close(flow.shifted(s, flow.auto_shift(tokens)), want)


def test_levels_survive_float32_and_would_not_survive_bfloat16() -> None:
    t = torch.arange(1000)
    assert (t / flow.TIMESTEPS).unique().numel() == 1000
    assert (t.bfloat16() / flow.TIMESTEPS).unique().numel() < 510
