# ruff: noqa: E501  (tables: one case a line)
"""Settings of noise levels, loss, rollout and guard: values, contradictions, and idle ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd3tune.config import rules
from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.errors import ConfigError
from tests.plans import plan

ON = {"scheduled_sampling_max_step_offset": 4, "scheduled_sampling_probability": 0.5}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def made(**settings: Any) -> Config:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"output_dir": "out", "max_train_steps": 10} | settings))
        return Config.load(path)

    return made


@pytest.mark.parametrize(
    "value, levels",
    [([250, 500], (0.25, 0.5)), ("250, 500", (0.25, 0.5)), ("[0.25, 1]", (0.25, 1.0)),
     (1000, (1.0,)), ([1, 1000], (0.001, 1.0)), ("", ()), ([], ())],
)  # fmt: skip
def test_custom_timesteps_are_thousandths_unless_none_is_above_one(
    load: Any, value: Any, levels: tuple[float, ...]
) -> None:
    assert load(flow_custom_timesteps=value).flow_custom_timesteps == levels


def test_weights_of_a_cubic_schedule_are_a_list_or_numbers_between_commas(load: Any) -> None:
    assert load(flow_cubic_schedule_weights=[1, 3, 2]).flow_cubic_schedule_weights == (1, 3, 2)
    assert load(flow_cubic_schedule_weights="1,3,2").flow_cubic_schedule_weights == (1, 3, 2)


def test_a_shift_of_nothing_is_no_shift_and_goes_with_auto_shift(load: Any) -> None:
    config = load(flow_schedule_shift=0, flow_schedule_auto_shift=True)
    assert config.flow_schedule_shift == 1.0 and config.flow_schedule_auto_shift


BAD = [
    ({"flow_custom_timesteps": [0, 500]}, "`flow_custom_timesteps=[0, 500]` must lie above 0 and at most at 1000"),
    ({"flow_custom_timesteps": "soon"}, "`flow_custom_timesteps=soon` must be timesteps such as [250, 500, 750]"),
    ({"flow_custom_timesteps": [True]}, "`flow_custom_timesteps=[True]` must be timesteps"),
    ({"flow_cubic_schedule_weights": [1]}, "`flow_cubic_schedule_weights=[1]` must be two or more weights above 0"),
    ({"flow_cubic_schedule_weights": [1, 0]}, "must be two or more weights above 0"),
    ({"flow_cubic_schedule_weights": {"a": 1}}, "must be weights such as [1, 2, 1]"),
    ({"flow_use_beta_schedule": True, "flow_use_uniform_schedule": True}, "flow_use_uniform_schedule and flow_use_beta_schedule are both set"),
    ({"flow_custom_timesteps": 500, "flow_cubic_schedule_weights": [1, 2]}, "flow_custom_timesteps and flow_cubic_schedule_weights are both set"),
    ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 3}, "flow_schedule_auto_shift and flow_schedule_shift are both set"),
    ({"flow_beta_schedule_alpha": 0}, "`flow_beta_schedule_alpha=0` must be above 0"),
    ({"loss_type": "l1"}, "`loss_type=l1` must be one of 'l2', 'huber', 'smooth_l1'"),
    ({"loss_type": "huber", "huber_c": 2}, "huber_c=2 must be at most 1 with huber_schedule=snr"),
    ({"huber_c": 0}, "`huber_c=0` must be above 0"),
    ({"input_perturbation": -1}, "`input_perturbation=-1` must be at least 0"),
    ({"scheduled_sampling_max_step_offset": 4}, "with scheduled_sampling_probability=0 no image is rolled out"),
    (ON | {"scheduled_sampling_sampler": "unipc"}, "scheduled_sampling_sampler=unipc is not for flow matching"),
    (ON | {"scheduled_sampling_order": 2}, "scheduled_sampling_order=2 is not for flow matching"),
    (ON | {"fsdp_enable": True}, "scheduled_sampling_max_step_offset and fsdp_enable are both set"),
    ({"scheduled_sampling_max_step_offset": 1000}, "must be at most 999"),
    ({"scheduled_sampling_ramp_shape": "sine"}, "must be one of 'linear', 'cosine'"),
    ({"loss_spike_action": "shrug"}, "must be one of 'none', 'skip', 'lower', 'stop'"),
    ({"loss_spike_factor": 1}, "`loss_spike_factor=1` must be above 1"),
]  # fmt: skip


@pytest.mark.parametrize("settings, words", BAD, ids=[words[:40] for _, words in BAD])
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    load: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as e:
        load(**settings)
    assert words in str(e.value) and "\n" not in str(e.value) and e.value.hint


def test_defaults_of_the_vocabulary_that_files_spell_out_say_nothing(load: Any) -> None:
    spelled = load(
        loss_type="l2", huber_c=0.1, huber_schedule="snr", flow_use_beta_schedule=False,
        flow_beta_schedule_alpha=2.0, flow_beta_schedule_beta=2.0, flow_cubic_schedule_weights=None,
        flow_custom_timesteps="", flow_timesteps_mode="fixed-list", flow_sigmoid_scale=1.0,
        scheduled_sampling_sampler="unipc", scheduled_sampling_order=2, input_perturbation=0.0,
        scheduled_sampling_max_step_offset=0, scheduled_sampling_reflexflow=None,
    )  # fmt: skip
    assert rules.warnings(spelled) == ()


IDLE = [
    ({"flow_use_uniform_schedule": True, "flow_sigmoid_scale": 2}, "flow_sigmoid_scale has no effect: flow_use_uniform_schedule draws the noise levels"),
    ({"flow_custom_timesteps": 500, "flow_schedule_shift": 2}, "flow_schedule_shift has no effect: flow_custom_timesteps are taken as they are"),
    ({"flow_beta_schedule_beta": 3}, "flow_beta_schedule_beta has no effect: flow_use_beta_schedule is off"),
    ({"flow_timesteps_mode": "round-robin"}, "flow_timesteps_mode has no effect"),
    ({"huber_c": 0.5}, "huber_c has no effect: loss_type is l2"),
    ({"input_perturbation_steps": 5}, "input_perturbation_steps has no effect: input_perturbation is 0"),
    ({"loss_spike_factor": 3}, "loss_spike_factor has no effect: loss_spike_action is none"),
    ({"scheduled_sampling_probability": 0.5}, "scheduled_sampling_probability has no effect: scheduled_sampling_max_step_offset is 0"),
    (ON | {"scheduled_sampling_ramp_steps": 5}, "scheduled_sampling_probability has no effect: scheduled_sampling_ramp_steps rules"),
    (ON | {"scheduled_sampling_prob_start": 0.1}, "scheduled_sampling_prob_start has no effect: scheduled_sampling_ramp_steps is 0"),
    (ON | {"scheduled_sampling_reflexflow": False, "scheduled_sampling_reflexflow_alpha": 3}, "scheduled_sampling_reflexflow_alpha has no effect"),
    ({"loss_type": "huber"}, "huber_schedule=snr forgives large errors where there is little noise"),
]  # fmt: skip


@pytest.mark.parametrize("settings, words", IDLE, ids=[words[:40] for _, words in IDLE])
def test_the_plan_warns_of_what_was_set_and_changes_nothing(
    settings: dict[str, Any], words: str
) -> None:
    assert [w for w in plan("h100-sxm", **settings).warnings if w.startswith(words)]
    assert not [w for w in plan("h100-sxm").warnings if "has no effect" in w or "huber" in w]


def test_a_dataset_s_offset_belongs_to_logit_normal_levels_and_to_training(tmp_path: Path) -> None:
    path = tmp_path / "multidatabackend.json"
    entry = {"id": "d", "instance_data_dir": str(tmp_path), "timestep_sampling_offset": -0.5}
    path.write_text(json.dumps([entry]))
    plain = {"output_dir": str(tmp_path), "data_backend_config": str(path), "max_train_steps": 1}
    config, beta = Config(**plain), Config(**plain, flow_use_beta_schedule=True)
    (dataset,) = load_datasets(path, config).images
    assert dataset.timestep_sampling_offset == -0.5
    assert rules.warnings(config, [dataset]) == ()
    assert rules.warnings(beta, [dataset]) == (
        "dataset `d`: timestep_sampling_offset has no effect: flow_use_beta_schedule draws the noise levels; leave one of them out",
    )
    path.write_text(json.dumps([entry | {"dataset_type": "eval"}]))
    with pytest.raises(ConfigError, match="timestep_sampling_offset is about training"):
        load_datasets(path, config)
