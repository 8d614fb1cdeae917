"""Settings of loss, noise levels, captions, schedule and pictures as decisions: what the plan shows
of them."""

from collections.abc import Mapping
from typing import Any

from sd3tune.decision import Decision
from sd3tune.plan.objective import NoiseLevels, Rollout
from sd3tune.plan.plan import Plan
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.loss_weightings import LOSS_WEIGHTINGS
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS


def objective_decisions(plan: Plan) -> Mapping[str, Decision[Any]]:
    """By the names of the settings."""
    return {
        **_of_loss(plan),
        **_of_noise(plan),
        **_of_captions(plan),
        **_of_schedule(plan),
        **_of_pictures(plan),
    }


def _of_loss(plan: Plan) -> dict[str, Decision[Any]]:
    loss, source = plan.loss, plan.config.source
    row = LOSS_TYPES[loss.kind]
    bends = f", huber_c={loss.huber_c:g} ({loss.huber_schedule})" if row.bends else ""
    if loss.weighting != "none":
        bends += f"; loss_weighting={loss.weighting}: {LOSS_WEIGHTINGS[loss.weighting].about}"
    guard = "" if loss.spike_action == "none" else f"; loss_spike_action={loss.spike_action}"
    return {"loss_type": Decision(loss.kind, source("loss_type"), f"{row.about}{bends}{guard}")}


def _of_noise(plan: Plan) -> dict[str, Decision[Any]]:
    levels, source = plan.loss.levels, plan.config.source
    parts = [distribution(levels)]
    if plan.loss.perturbation:
        parts.append(f"input_perturbation={plan.loss.perturbation:g}")
    if plan.loss.rollout is not None:
        parts.append(rolled_out(plan.loss.rollout))
    automatic = levels.shift is None
    name = "flow_schedule_auto_shift" if automatic else "flow_schedule_shift"
    value = True if automatic else levels.shift
    return {name: Decision(value, source(name), "; ".join(parts))}


def distribution(levels: NoiseLevels) -> str:
    """How noise levels are drawn, in words."""
    if levels.listed:
        how = "each in turn" if levels.in_turn else "drawn evenly"
        listed = ", ".join(f"{level:g}" for level in levels.listed)
        return f"the only noise levels are {listed}, {how}, without a shift"
    if levels.uniform:
        drawn = "noise levels are uniform"
    elif levels.beta is not None:
        alpha, beta = levels.beta
        drawn = f"noise levels follow Beta({alpha:g}, {beta:g})"
    elif levels.weights:
        drawn = f"noise levels follow the weights {', '.join(f'{w:g}' for w in levels.weights)}"
    else:
        drawn = f"noise levels are logit-normal with scale {levels.scale:g}"
    if levels.shift is None:
        return f"{drawn}, shifted by the size of the image"
    shifted = f"shifted by {levels.shift:g}" if levels.shift != 1 else "not shifted"
    return f"{drawn}, {shifted}"


def rolled_out(rollout: Rollout) -> str:
    """Scheduled sampling in words."""
    how = "ReflexFlow" if rollout.reflex is not None else "no ReflexFlow"
    return f"up to {rollout.longest} steps of the model's own are rolled out ({how})"


def _of_captions(plan: Plan) -> dict[str, Decision[Any]]:
    captions, source = plan.captions, plan.config.source
    length = "of T5 for each caption, beside 77 of CLIP"
    padding = {"unmodified": "as SD3.5 was trained", "zero": "embeddings of padding are zeros"}
    return {
        "tokenizer_max_length": Decision(
            captions.t5_tokens, source("tokenizer_max_length"), f"tokens {length}"
        ),
        "t5_padding": Decision(
            captions.t5_padding, source("t5_padding"), padding[captions.t5_padding]
        ),
    }


def _of_schedule(plan: Plan) -> dict[str, Decision[Any]]:
    rate, source = plan.optimizer.rate, plan.config.source
    row = LR_SCHEDULERS[rate.name]
    parts = [row.about]
    if row.warms_up:
        parts.append(f"after {rate.warmup} steps of warm-up")
    if row.falls:
        parts.append(f"lr_end={rate.end:g}")
    clipped = plan.optimizer.max_grad_norm
    method = plan.optimizer.clip_method
    why = f"gradients are clipped by their {method}" if clipped else "gradients are not clipped"
    return {
        "lr_scheduler": Decision(rate.name, source("lr_scheduler"), ", ".join(parts)),
        "max_grad_norm": Decision(clipped, source("max_grad_norm"), why),
    }


def _of_pictures(plan: Plan) -> dict[str, Decision[Any]]:
    how, source = plan.pictures, plan.config.source
    parts = [f"strength of guidance in pictures of {how.sampling_steps} steps"]
    if how.skip is not None:
        blocks = ", ".join(map(str, how.skip.blocks))
        parts.append(
            f"skip-layer guidance {how.skip.scale:g} without blocks {blocks}, from "
            f"{how.skip.start:.0%} to {how.skip.stop:.0%} of the steps"
        )
    every = how.times.every_steps
    return {
        "validation_guidance": Decision(
            how.guidance, source("validation_guidance"), "; ".join(parts)
        ),
        "validation_step_interval": Decision(every.value or None, every.source, every.reason),
    }
