"""What the evaluation loss amounts to: how often it is measured, on which images, and its cost. The
trainer reads none of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.discover import Discovery
from sd3tune.data.order import Schedule
from sd3tune.plan.evaluation_plan import MEASURED_TWICE, EvaluationPlan, epochs_at
from sd3tune.plan.plan import Plan

TRAINING_PASSES = 3  # what one trained image costs, in forward passes: the backward pass takes two


@dataclass(frozen=True)
class EvaluationCount:
    """What the evaluation loss amounts to."""

    before_and_after: int  # images
    trained_on: bool  # the images are trained on as well: there is no `eval` dataset
    during: "DuringTraining | None"
    scored_by: str | None  # the CLIP model of validation pictures


@dataclass(frozen=True)
class DuringTraining:
    """The measurements at intervals."""

    images: Mapping[str, int]  # by dataset id
    trained_on: bool
    levels: int
    every_steps: int
    every_epochs: float
    times: int  # the one before the first step and the one after the last included
    passes: int  # of one image through the network, each time
    share: float  # of the passes of training, about
    best_checkpoint: bool
    patience: int | None


def evaluated_images(
    asked: str | None, most: int, datasets: Datasets, discoveries: Mapping[str, Discovery]
) -> dict[str, int]:
    """How many images of each dataset are evaluated, at most `most` of each. asked: the id of the
    only one."""
    used = (d.id for d in datasets.evaluated(asked) if d.id in discoveries)
    different = {name: len({s.id for s in discoveries[name].samples}) for name in used}
    return {name: min(most, count) for name, count in different.items()}


def evaluation_times(how: EvaluationPlan, schedule: Schedule, steps: int) -> int:
    """How often the evaluation loss is measured in a run of so many steps: before the first, at
    the intervals, and after the last. Where two intervals meet, they count twice."""
    by_steps = by_epochs = Fraction(0)
    if how.every_steps:
        by_steps = Fraction(steps, how.every_steps)
    if how.every_epochs:
        epochs = epochs_at(schedule, steps * schedule.batches_per_step)
        by_epochs = epochs / Fraction(str(how.every_epochs))
    last = 0 < by_steps == int(by_steps) or 0 < by_epochs == int(by_epochs)
    return 1 + int(by_steps) + int(by_epochs) + (not last)


def evaluation_count(
    plan: Plan, datasets: Datasets, discoveries: Mapping[str, Discovery], schedule: Schedule
) -> EvaluationCount:
    """The figures of a plan for these datasets."""
    how = plan.evaluation
    both = evaluated_images(None, MEASURED_TWICE, datasets, discoveries)
    during = None
    if how is not None:
        images = evaluated_images(how.dataset, how.images, datasets, discoveries)
        trained_on = images.keys().isdisjoint(d.id for d in datasets.evals)
        during = _during(images, trained_on, schedule, plan, how)
    return EvaluationCount(
        before_and_after=min(MEASURED_TWICE, sum(both.values())),
        trained_on=not datasets.evals,
        during=during,
        scored_by=None if plan.score is None else plan.score.model,
    )


def _during(
    images: Mapping[str, int],
    trained_on: bool,
    schedule: Schedule,
    plan: Plan,
    how: EvaluationPlan,
) -> DuringTraining:
    passes = sum(images.values()) * len(how.levels)
    times = evaluation_times(how, schedule, plan.steps)
    trained = plan.steps * plan.batch_size * plan.batches_per_step
    return DuringTraining(
        images=images,
        trained_on=trained_on,
        levels=len(how.levels),
        every_steps=how.every_steps,
        every_epochs=how.every_epochs,
        times=times,
        passes=passes,
        share=round(passes * times / (TRAINING_PASSES * trained), 3),
        best_checkpoint=how.keep_best,
        patience=how.patience,
    )
