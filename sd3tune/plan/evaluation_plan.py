"""The plan of figures during training: when the evaluation loss is measured, on what, what follows
from it, and which model scores pictures."""

from dataclasses import dataclass
from fractions import Fraction

from sd3tune.config.config import Config
from sd3tune.data.order import Schedule

MEASURED_TWICE = 8  # images, at most, whose loss is measured before and after training


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
