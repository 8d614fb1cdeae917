"""What is made of an error: distances, masks, perturbed inputs; against float64."""

import numpy as np
import pytest
import torch

from sd3tune.plan.objective import LossPlan
from sd3tune.sd3 import distances, flow
from sd3tune.train.losses import losses
from sd3tune.train.noise import another, draw
from sd3tune.train.recipe import Recipe
from tests.cpu.known import Known, batch, curved


def recipe(**changes: object) -> Recipe:
    return Recipe(0, LossPlan(**changes), None, "diffusers", max_grad_norm=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "schedule, s, want",
    [("exponential", 0, 1), ("exponential", 0.25, 0.56234), ("exponential", 0.5, 0.31623),
     ("exponential", 0.75, 0.17783), ("exponential", 1, 0.1), ("snr", 0.1, 0.15629),
     ("snr", 0.5, 0.32502), ("snr", 0.9, 0.60626), ("constant", 0.3, 0.1)],
)  # fmt: skip
def test_huber_widths_are_the_recorded_ones(schedule: str, s: float, want: float) -> None:
    found = distances.huber_width(torch.tensor([float(s)]), 0.1, schedule)
    assert found.item() == pytest.approx(want, abs=6e-6)


def bent(d: np.ndarray, c: np.ndarray) -> np.ndarray:
    loss: np.ndarray = np.sqrt(d * d + c * c) - c
    return loss


@pytest.mark.parametrize("kind", ["l2", "huber", "smooth_l1"])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_each_loss_is_its_equation_in_float64(kind: str, schedule: str) -> None:
    one, how = batch(1, 2, 3), recipe(kind=kind, huber_c=0.2, huber_schedule=schedule)
    found = losses(Known(curved).trained, one, how, 5)
    eps = draw(0, 5, one).eps
    s = found.levels.double().numpy()
    x0, e = one.latents.double().numpy(), eps.double().numpy()
    z = (1 - s)[:, None, None, None] * x0 + s[:, None, None, None] * e
    v = curved(torch.from_numpy(z), torch.from_numpy(1000 * s), one.pooled).numpy()
    d = v - (e - x0)
    c = {"constant": 0 * s + 0.2, "exponential": np.exp(1000 * s * np.log(0.2) / 1000),
         "snr": 0.8 / (1 + np.sqrt((1 - s) / (s + 1e-4))) ** 2 + 0.2}[schedule]  # fmt: skip
    c = c[:, None, None, None]
    each = {"l2": d * d, "huber": 2 * c * bent(d, c), "smooth_l1": 2 * bent(d, c)}[kind]
    want = each.mean((1, 2, 3))
    np.testing.assert_allclose(found.each.detach().double().numpy(), want, rtol=1e-5)


def test_small_errors_keep_their_digits_in_float32() -> None:
    d, c = torch.full((1, 1, 1, 1), 1e-3), torch.ones(1)
    assert distances.huber(d, c).item() == pytest.approx(1e-6 * (1 - 0.25e-6), rel=1e-6)
    far = torch.full((1, 1, 1, 1), 1e3)
    assert distances.smooth_l1(far, c).item() == pytest.approx(2 * (np.sqrt(1e6 + 1) - 1), rel=1e-6)


def test_a_mask_may_be_divided_by_its_share() -> None:
    half = torch.zeros(2, 1, 8, 8)
    half[0, ..., :4] = 1
    half[1, ..., :2] = 0.5
    ones = torch.ones(2, 16, 8, 8)
    assert flow.mean(ones, half, share=False).tolist() == [0.5, 0.125]
    assert flow.mean(ones, half, share=True).tolist() == [1.0, 1.0]
    assert flow.mean(ones, half * 0, share=True).tolist() == [0.0, 0.0]
    one, kind = batch(1, 2, mask=half), {"kind": "huber", "huber_schedule": "exponential"}
    net = Known(curved)
    plain = losses(net.trained, one, recipe(**kind), 0).each
    share = losses(net.trained, one, recipe(**kind, mask_share=True), 0).each
    torch.testing.assert_close(share * half.mean((1, 2, 3)), plain)


def test_input_perturbation_adds_noise_that_the_target_does_not_know() -> None:
    one, net = batch(1, 2), Known(curved)
    found = losses(net.trained, one, recipe(perturbation=0.3), 4)
    eps = draw(0, 4, one).eps
    extra = another(0, 4, one, "perturbation")
    z = flow.add_noise(one.latents, eps + 0.3 * extra, found.levels)
    torch.testing.assert_close(net.calls[-1]["z"], z)
    target = eps - one.latents
    want = (curved(z, 1000 * found.levels, one.pooled) - target).square().mean((1, 2, 3))
    torch.testing.assert_close(found.each.detach(), want)
    assert abs((eps * extra).mean()) < 0.05 and abs(extra.std() - 1) < 0.05  # unrelated, unit
    assert torch.equal(extra[1:], another(0, 4, batch(2), "perturbation"))


def test_input_perturbation_fades_over_its_steps() -> None:
    fading = LossPlan(perturbation=0.2, perturbation_steps=10)
    assert [fading.perturbation_at(s) for s in (0, 5, 10, 20)] == pytest.approx([0.2, 0.1, 0, 0])
    assert LossPlan(perturbation=0.2).perturbation_at(10_000) == 0.2
    faded = losses(
        Known(curved).trained, batch(1), recipe(perturbation=0.2, perturbation_steps=4), 4
    )
    assert torch.equal(faded.each, losses(Known(curved).trained, batch(1), recipe(), 4).each)
