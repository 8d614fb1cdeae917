"""The training objective: distribution of noise levels, loss, rollouts, guard against spikes.

The equations are in sd3/flow.py and the random draws in train/noise.py; this module holds their
numbers.
docs/concepts/flow.md
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from sd3tune.config.config import Config

Strategy = Literal["uniform", "biased_early", "biased_late"]
SpikeAction = Literal["none", "skip", "lower", "stop"]


@dataclass(frozen=True)
class NoiseLevels:
    """How noise levels are drawn: by the first of listed, uniform, beta, weights that is set,
    otherwise logit-normal."""

    shift: float | None = 1.0  # None: by the number of tokens (flow_schedule_auto_shift)
    scale: float = 1.0  # of the logit-normal distribution
    uniform: bool = False
    beta: tuple[float, float] | None = None  # alpha and beta of a Beta distribution
    weights: tuple[float, ...] = ()  # of a cubic schedule
    listed: tuple[float, ...] = ()  # the only levels there are; not shifted
    in_turn: bool = False  # every image walks through `listed` instead of drawing from it


@dataclass(frozen=True)
class ReflexWeights:
    """ReflexFlow's three numbers (arXiv:2512.04904); sd3/reflexflow.py has the equations."""

    alpha: float = 1.0  # frequency compensation
    beta1: float = 10.0  # anti-drift term
    beta2: float = 1.0  # loss of rolled-out images beside it


@dataclass(frozen=True)
class Rollout:
    """Scheduled sampling: which share of the images is rolled out, and from how far."""

    longest: int  # Euler steps at most
    probability: float = 0.0
    begin: float = 0.0  # with ramp_steps: from this probability
    end: float = 0.5  # to this one
    ramp_steps: int = 0
    start_step: int = 0
    shape: Literal["linear", "cosine"] = "linear"
    strategy: Strategy = "uniform"
    reflex: ReflexWeights | None = None

    def chance(self, step: int) -> float:
        """Share of the images that are rolled out after `step` finished steps."""
        if step < self.start_step:
            return 0.0
        if not self.ramp_steps:
            return self.probability
        done = min(1.0, (step - self.start_step) / self.ramp_steps)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.begin + (self.end - self.begin) * done

    def steps(self, u: float) -> int:
        """1 to longest by a uniform number: `uniform` all alike; `biased_early` in proportion to
        longest, …, 2, 1, so that short ways are taken most; `biased_late` to 1, 2, …, longest."""
        n = self.longest
        if self.strategy == "uniform":
            return 1 + min(n - 1, int(u * n))
        weights = range(1, n + 1) if self.strategy == "biased_late" else range(n, 0, -1)
        below, total = 0, n * (n + 1) // 2
        for steps, weight in enumerate(weights, 1):
            below += weight
            if u * total < below:
                return steps
        return n


@dataclass(frozen=True)
class LossPlan:
    """The loss of an image. The defaults are the paper's."""

    levels: NoiseLevels = field(default_factory=NoiseLevels)
    kind: str = "l2"  # loss_type
    weighting: str = "none"  # loss_weighting
    huber_c: float = 0.1
    huber_schedule: str = "snr"
    masked: float = 1.0  # share of the batches with masks whose loss is weighed by them
    mask_share: bool = False  # the loss of those is divided by the mask's sum
    perturbation: float = 0.0  # noise of the input that the target does not know of
    perturbation_steps: int = 0  # over which it fades; 0: it stays
    rollout: Rollout | None = None
    spike_action: SpikeAction = "none"
    spike_factor: float = 5.0  # times the median of recent losses

    def perturbation_at(self, step: int) -> float:
        """How much more noise the input gets than the target knows of, after `step` steps: the
        whole perturbation (arXiv:2301.11706), or fading linearly over perturbation_steps."""
        fading = self.perturbation_steps
        return self.perturbation * max(0.0, 1 - step / fading) if fading else self.perturbation


def loss_plan(c: Config) -> LossPlan:
    """The settings of noise levels, loss and guard, which need no decision."""
    return LossPlan(
        levels=_levels(c),
        kind=c.loss_type,
        weighting=c.loss_weighting,
        huber_c=c.huber_c,
        huber_schedule=c.huber_schedule,
        masked=c.masked_loss_probability,
        mask_share=c.masked_loss_normalize,
        perturbation=c.input_perturbation,
        perturbation_steps=c.input_perturbation_steps,
        rollout=_rollout(c),
        spike_action=c.loss_spike_action,
        spike_factor=c.loss_spike_factor,
    )


def _levels(c: Config) -> NoiseLevels:
    beta = c.flow_beta_schedule_alpha, c.flow_beta_schedule_beta
    return NoiseLevels(
        shift=None if c.flow_schedule_auto_shift else c.flow_schedule_shift,
        scale=c.flow_sigmoid_scale,
        uniform=c.flow_use_uniform_schedule,
        beta=beta if c.flow_use_beta_schedule else None,
        weights=c.flow_cubic_schedule_weights,
        listed=c.flow_custom_timesteps,
        in_turn=c.flow_timesteps_mode == "round-robin",
    )


def _rollout(c: Config) -> Rollout | None:
    if not c.scheduled_sampling_max_step_offset:
        return None
    reflex = ReflexWeights(
        c.scheduled_sampling_reflexflow_alpha,
        c.scheduled_sampling_reflexflow_beta1,
        c.scheduled_sampling_reflexflow_beta2,
    )
    return Rollout(
        longest=c.scheduled_sampling_max_step_offset,
        probability=c.scheduled_sampling_probability,
        begin=c.scheduled_sampling_prob_start,
        end=c.scheduled_sampling_prob_end,
        ramp_steps=c.scheduled_sampling_ramp_steps,
        start_step=c.scheduled_sampling_start_step,
        shape=c.scheduled_sampling_ramp_shape,
        strategy=c.scheduled_sampling_strategy,
        reflex=None if c.scheduled_sampling_reflexflow is False else reflex,
    )
