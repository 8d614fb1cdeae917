"""Schedules against the formulas in float64 and against diffusers', where those are right."""

import math

import pytest
import torch
from diffusers.optimization import get_scheduler

from sd3tune.plan.learning_rate import LearningRate
from tests.plans import plan

TOTAL, WARMUP = 1000, 100


def rates(name: str, steps: range = range(TOTAL + 1), **settings: float) -> list[float]:
    values = {"peak": 1e-4, "total": TOTAL, "warmup": WARMUP, "end": 4e-7} | settings
    rate = LearningRate(name, **values)  # type: ignore[arg-type]
    return [rate.at(step) for step in steps]


def theirs(name: str, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    made = get_scheduler(name, optimizer, num_warmup_steps=WARMUP, num_training_steps=TOTAL,
                         **settings)  # fmt: skip
    found = []
    for _ in range(TOTAL + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_cosine_is_one_half_wave_from_warm_up_to_the_last_step() -> None:
    got = rates("cosine")
    for k in range(WARMUP, TOTAL + 1):
        want = 4e-7 + (1e-4 - 4e-7) * 0.5 * (1 + math.cos(math.pi * (k - 100) / 900))
        assert got[k] == pytest.approx(want, rel=1e-12)
    assert got[WARMUP] == max(got) == 1e-4 and got[TOTAL] == pytest.approx(4e-7)


@pytest.mark.parametrize(
    "name, settings, same",
    [
        ("constant_with_warmup", {}, {}),
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
    ],
)
def test_after_warm_up_schedules_are_those_of_diffusers(name, settings, same) -> None:  # type: ignore[no-untyped-def]
    ours = rates(name, end=0.0, **settings)
    assert ours[WARMUP:] == pytest.approx(theirs(name, **same)[WARMUP:], rel=1e-9, abs=1e-15)


def test_polynomial_is_the_power_of_what_is_left() -> None:
    """diffusers' ends at a fixed 1e-7 of its own; the formula is the same."""
    got = rates("polynomial", end=1e-7, power=0.8)
    assert got[WARMUP:] == pytest.approx(theirs("polynomial", power=0.8)[WARMUP:], rel=1e-9)
    assert rates("polynomial", power=0.8)[500] == pytest.approx(6.26e-5, rel=1e-3)
    assert rates("polynomial", warmup=0, power=0.8)[500] == pytest.approx(5.76e-5, rel=2e-3)


def test_linear_reaches_lr_end() -> None:
    assert rates("linear", range(0, 11, 5), total=10, warmup=0, peak=1.0, end=0.1) == pytest.approx(
        [1.0, 0.55, 0.1]
    )


def test_the_last_rate_of_a_run_is_its_lr_end() -> None:
    made = plan("h100-sxm", lr_scheduler="linear", lr_end=3e-6, max_train_steps=50)
    assert made.optimizer.rate.at(made.steps) == pytest.approx(3e-6)


def test_cosine_with_restarts_really_restarts() -> None:
    got = rates("cosine_with_restarts", warmup=0, total=900, cycles=3, steps=range(900))
    jumps = [k for k in range(1, 900) if got[k] > got[k - 1]]
    assert jumps == [300, 600] and got[300] == got[600] == got[0] == 1e-4
    assert got[299] < 1e-6


@pytest.mark.parametrize(
    "name", ["constant_with_warmup", "linear", "polynomial", "cosine", "cosine_with_restarts"]
)
def test_every_schedule_warms_up_from_a_rate_above_zero_and_ends_at_the_end(name: str) -> None:
    got = rates(name)
    assert got[: WARMUP + 1] == pytest.approx([1e-4 * (k + 1) / 101 for k in range(101)])
    beyond = rates(name, range(TOTAL, 3 * TOTAL, 100))
    assert len(set(beyond)) == 1 and beyond[0] == (
        1e-4 if name == "constant_with_warmup" else pytest.approx(4e-7)
    )


def test_constant_has_no_warm_up() -> None:
    assert set(rates("constant")) == {1e-4}
