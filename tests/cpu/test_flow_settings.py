"""Every setting of noise levels, loss and rollout reaches the loss: from the configuration on."""

from typing import Any

import pytest
import torch

from sd3tune.train.losses import Losses, losses
from sd3tune.train.recipe import Recipe
from tests.cpu.known import Known, batch, curved
from tests.plans import plan

ROLLOUT = {"scheduled_sampling_max_step_offset": 30, "scheduled_sampling_probability": 1.0}
RAMP = {"scheduled_sampling_max_step_offset": 30, "scheduled_sampling_ramp_steps": 20}
HUBER = {"loss_type": "huber"}
LIST = {"flow_custom_timesteps": [100, 300, 500, 700, 900]}

CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [  # a setting, and what it must differ from
    ({"flow_schedule_shift": 1.0}, {}),
    ({"flow_schedule_auto_shift": True}, {}),
    ({"flow_use_uniform_schedule": True}, {}),
    ({"flow_sigmoid_scale": 0.5}, {}),
    (beta := {"flow_use_beta_schedule": True}, {}),
    (beta | {"flow_beta_schedule_alpha": 5}, beta),
    (beta | {"flow_beta_schedule_beta": 5}, beta),
    ({"flow_cubic_schedule_weights": [1, 3]}, {}),
    (LIST, {}),
    (LIST | {"flow_timesteps_mode": "round-robin"}, LIST),
    (HUBER, {}),
    (HUBER | {"huber_c": 0.5}, HUBER),
    (HUBER | {"huber_schedule": "exponential"}, HUBER),
    (HUBER | {"huber_schedule": "constant"}, HUBER),
    ({"loss_type": "smooth_l1"}, HUBER),
    ({"loss_weighting": "x0"}, {}),
    ({"loss_weighting": "sigma_sqrt"}, {}),
    ({"loss_weighting": "cosmap"}, {}),
    ({"loss_weighting": "x0_cosmap"}, {"loss_weighting": "x0"}),
    ({"masked_loss_normalize": True}, {}),
    ({"masked_loss_probability": 0}, {}),
    ({"input_perturbation": 0.1}, {}),
    ({"input_perturbation": 0.1, "input_perturbation_steps": 40}, {"input_perturbation": 0.1}),
    (ROLLOUT, {}),
    (ROLLOUT | {"scheduled_sampling_max_step_offset": 300}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_probability": 0.3}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_start_step": 50}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_strategy": "biased_late"}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_strategy": "biased_early"}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_reflexflow": False}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_reflexflow_alpha": 500.0}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_reflexflow_beta1": 1.0}, ROLLOUT),
    (ROLLOUT | {"scheduled_sampling_reflexflow_beta2": 0.5}, ROLLOUT),
    (RAMP | {"scheduled_sampling_prob_start": 0.9}, RAMP),
    (RAMP | {"scheduled_sampling_prob_end": 1.0}, RAMP),
    (RAMP | {"scheduled_sampling_ramp_steps": 100}, RAMP),
    (RAMP | {"scheduled_sampling_ramp_shape": "cosine"}, RAMP),
]


def outcome(settings: dict[str, Any], step: int = 15) -> Losses:
    mask = torch.zeros(40, 1, 2, 2)
    mask[..., 0] = 1
    one = batch(*range(40), size=2, mask=mask)
    return losses(Known(curved).trained, one, Recipe.of(plan("h100-sxm", **settings)), step)


def described(settings: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in settings.items())


@pytest.mark.parametrize("settings, others", CHANGES, ids=[described(s) for s, _ in CHANGES])
def test_each_setting_changes_the_loss(settings: dict[str, Any], others: dict[str, Any]) -> None:
    changed, before = outcome(settings), outcome(others)
    assert not torch.allclose(changed.each, before.each)


def test_left_alone_the_loss_is_plain_and_the_same_on_every_call() -> None:
    assert torch.equal(outcome({}).each, outcome({}).each)
    idle = {"loss_type": "l2", "huber_c": 0.3, "scheduled_sampling_strategy": "biased_late"}
    assert torch.equal(outcome(idle).each, outcome({}).each)
