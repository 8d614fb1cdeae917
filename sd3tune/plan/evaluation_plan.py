"""The plan of figures during training: when the evaluation loss is measured, on what, what follows
from it, and which model scores pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import Datasets
from sd3tune.data.discover import Discovery
from sd3tune.data.order import Schedule

TRAINING_PASSES = 3  # what one trained image costs, in forward passes: the backward pass takes two


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluation loss during training."""

    every_steps: int  # 0: not by steps
    every_epochs: float  # 0: not by epochs
    images: int  # of each dataset, at most
    levels: tuple[float, ...]  # noise levels, as the network sees them
    dataset: str | None  # None: every `eval` dataset, or what is trained on
    pooled: bool  # one loss for all datasets
    keep_best: bool
    patience: int | None  # evaluations without a new lowest loss that end training


@dataclass(frozen=True)
class ScorePlan:
    """How validation pictures are scored."""

    model: str  # folder or repository of a CLIP model


@dataclass(frozen=True)
class EvaluationCount:
    """What the evaluation loss during training amounts to."""

    images: Mapping[str, int]  # by dataset id
    trained_on: bool  # these images are trained on as well: there is no `eval` dataset
    levels: int
    every_steps: int
    every_epochs: float
    times: int  # the one before the first step and the one after the last included
    passes: int  # of one image through the network, each time
    share: float  # of the computing of training; about

    @property
    def all_images(self) -> int:
        """Images of all datasets."""
        return sum(self.images.values())


def evaluation_plan(c: Config) -> EvaluationPlan | None:
    """None where the evaluation loss is measured before and after training only. Levels are left
    unshifted: a shift says how often levels are visited, not what a level is, so runs of any shift
    and image size are asked the same."""
    if c.eval_loss_disable or not (c.eval_steps_interval or c.eval_epoch_interval):
        return None
    keep = c.early_stopping_patience if c.keep_best_checkpoint is None else c.keep_best_checkpoint
    return EvaluationPlan(
        every_steps=c.eval_steps_interval,
        every_epochs=c.eval_epoch_interval,
        images=c.num_eval_images,
        levels=tuple((n + 0.5) / c.eval_timesteps for n in range(c.eval_timesteps)),
        dataset=c.eval_dataset_id,
        pooled=c.eval_dataset_pooling,
        keep_best=bool(keep),
        patience=c.early_stopping_patience,
    )


def score_plan(c: Config) -> ScorePlan | None:
    """None where pictures get no score."""
    if c.evaluation_type == "none":
        return None
    return ScorePlan(c.pretrained_evaluation_model_name_or_path)


def epochs_at(schedule: Schedule, position: int) -> Fraction:
    """Epochs that the batches before a position make."""
    number, start = schedule.begin(position)
    return number + Fraction(position - start, schedule.length(number, start))


def evaluated_images(
    how: EvaluationPlan, datasets: Datasets, discoveries: Mapping[str, Discovery]
) -> dict[str, int]:
    """How many images of each dataset are evaluated."""
    used = (d.id for d in datasets.evaluated(how.dataset) if d.id in discoveries)
    different = {name: len({s.id for s in discoveries[name].samples}) for name in used}
    return {name: min(how.images, count) for name, count in different.items()}


def evaluation_times(how: EvaluationPlan, schedule: Schedule, steps: int) -> int:
    """How often the evaluation loss is measured in a run of so many steps; where two intervals
    meet, they count twice."""
    by_steps = by_epochs = last = 0
    if how.every_steps:
        by_steps, last = steps // how.every_steps, int(steps % how.every_steps == 0)
    if how.every_epochs:
        epochs = epochs_at(schedule, steps * schedule.batches_per_step)
        by_epochs = int(epochs / Fraction(str(how.every_epochs)))
    return 1 + by_steps + by_epochs + 1 - last
