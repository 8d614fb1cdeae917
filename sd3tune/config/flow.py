"""Noise levels, loss and rollout as people write them: values, contradictions, idle settings.

Raises ValueError with one sentence; report.py adds file, key and value.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sd3tune.config.config import Config
    from sd3tune.config.datasets.image_dataset import ImageDataset

SCHEDULES = (  # of which one can be set
    "flow_custom_timesteps",
    "flow_use_uniform_schedule",
    "flow_use_beta_schedule",
    "flow_cubic_schedule_weights",
)


# The switch itself, and two whose spelled-out defaults of the vocabulary ask for nothing.
NOT_IDLE = ("max_step_offset", "sampler", "order")


def timesteps(value: Any) -> Any:
    """[250, 500, 750] or "250,500,750" as noise levels; if none is above 1, they are levels."""
    found = _numbers(value, "timesteps such as [250, 500, 750], or noise levels up to 1")
    if any(not 0 < n <= 1000 for n in found):
        raise ValueError("must lie above 0 and at most at 1000")
    return found if all(n <= 1 for n in found) else tuple(n / 1000 for n in found)


def weights(value: Any) -> Any:
    """[1, 2, 1] or "1,2,1": two or more, all above 0."""
    found = _numbers(value, "weights such as [1, 2, 1]")
    if len(found) == 1 or any(n <= 0 for n in found):
        raise ValueError("must be two or more weights above 0")
    return found


def _numbers(value: Any, wanted: str) -> tuple[float, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(f"[{value.strip().strip('[]')}]")
        except ValueError:
            raise ValueError(f"must be {wanted}") from None
    value = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in value):
        raise ValueError(f"must be {wanted}")
    return tuple(float(n) for n in value)


def contradictions(c: "Config") -> None:
    """Settings that cannot both be meant."""
    several = [name for name in SCHEDULES if getattr(c, name)]
    if len(several) > 1:
        raise ValueError(
            f"{several[0]} and {several[1]} are both set, and noise levels are drawn in one way; "
            "set one of them"
        )
    if (
        c.flow_schedule_auto_shift
        and _said(c, "flow_schedule_shift")
        and c.flow_schedule_shift != 1
    ):
        raise ValueError(
            "flow_schedule_auto_shift and flow_schedule_shift are both set; set one of them"
        )
    if c.huber_schedule != "constant" and c.huber_c > 1:
        raise ValueError(
            f"huber_c={c.huber_c:g} must be at most 1 with huber_schedule={c.huber_schedule}, "
            "which goes between 1 and huber_c; use huber_schedule=constant"
        )
    if c.scheduled_sampling_max_step_offset:
        _rollout(c)


def _rollout(c: "Config") -> None:
    if c.fsdp_enable:
        raise ValueError(
            "scheduled_sampling_max_step_offset and fsdp_enable are both set: with split weights "
            "all processes must run the same number of passes, and rollouts differ in length; set "
            "one of them"
        )
    if not c.scheduled_sampling_probability and not c.scheduled_sampling_ramp_steps:
        raise ValueError(
            f"scheduled_sampling_max_step_offset={c.scheduled_sampling_max_step_offset} rolls "
            "nothing out with scheduled_sampling_probability=0; set the probability, or "
            "scheduled_sampling_ramp_steps"
        )
    for name, only in (("scheduled_sampling_sampler", "euler"), ("scheduled_sampling_order", 1)):
        if getattr(c, name) != only:
            raise ValueError(
                f"{name}={getattr(c, name)} is not for flow matching: single steps along a "
                "straight path have no history that a higher order could use, the rollout is "
                f"always Euler; leave it out"
            )


def idle(c: "Config", datasets: "Sequence[ImageDataset]" = ()) -> list[str]:
    """A sentence for every setting that was set and changes nothing, and why."""
    schedule = next((name for name in SCHEDULES if getattr(c, name)), None)
    rollout, ramp = c.scheduled_sampling_max_step_offset, c.scheduled_sampling_ramp_steps
    told = "scheduled_sampling_"
    rules = {
        f"{schedule} draws the noise levels": (schedule, ("flow_sigmoid_scale",)),
        "flow_custom_timesteps are taken as they are": (
            c.flow_custom_timesteps, ("flow_schedule_shift", "flow_schedule_auto_shift")),
        "flow_use_beta_schedule is off": (
            not c.flow_use_beta_schedule, ("flow_beta_schedule_alpha", "flow_beta_schedule_beta")),
        "flow_custom_timesteps is not set": (
            not c.flow_custom_timesteps, ("flow_timesteps_mode",)),
        "loss_type is l2": (c.loss_type == "l2", ("huber_c", "huber_schedule")),
        "input_perturbation is 0": (not c.input_perturbation, ("input_perturbation_steps",)),
        "loss_spike_action is none": (c.loss_spike_action == "none", ("loss_spike_factor",)),
        f"{told}max_step_offset is 0": (not rollout, [
            name for name in type(c).model_fields
            if name.startswith(told) and name.removeprefix(told) not in NOT_IDLE]),
        f"{told}ramp_steps rules the probability": (
            rollout and ramp, (f"{told}probability",)),
        f"{told}ramp_steps is 0": (
            rollout and not ramp,
            (f"{told}prob_start", f"{told}prob_end", f"{told}ramp_shape")),
        f"{told}reflexflow is false": (
            rollout and c.scheduled_sampling_reflexflow is False,
            (f"{told}reflexflow_alpha", f"{told}reflexflow_beta1", f"{told}reflexflow_beta2")),
    }  # fmt: skip
    found = [
        f"{name} has no effect: {why}"
        for why, (holds, names) in rules.items()
        for name in names
        if holds and _said(c, name) and getattr(c, name) != type(c).model_fields[name].default
    ]
    shifts = [d.id for d in datasets if d.timestep_sampling_offset] if schedule else []
    found += [
        f"dataset `{name}`: timestep_sampling_offset has no effect: {schedule} draws the noise "
        "levels" for name in shifts
    ]  # fmt: skip
    return found


def doubtful(c: "Config") -> list[str]:
    """What works as it is documented, and may not be what was meant."""
    if c.loss_type == "l2" or c.huber_schedule != "snr":
        return []
    return [
        "huber_schedule=snr forgives large errors where there is little noise, its paper "
        "(arXiv:2403.16728) where there is much: huber_schedule=exponential does that"
    ]


def _said(c: "Config", name: str) -> bool:
    return name in c.model_fields_set
