"""What will happen: everything that encoding, training, sampling and export read.

`resolve` makes a Plan from the settings, the machine's facts and the data. Each part is one topic.
A decision has its source and reason; a setting without a decision is a plain value. Code after the
plan does not read the configuration: it is here because checkpoints record it.
"""

from dataclasses import dataclass
from pathlib import Path

from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.decision import Decision
from sd3tune.plan.arithmetic import AttentionPlan, HardwarePlan, PrecisionPlan
from sd3tune.plan.blocks import MemoryPlan
from sd3tune.plan.encoding import CaptionPlan
from sd3tune.plan.evaluation_plan import EvaluationPlan, ScorePlan
from sd3tune.plan.keeping import CheckpointPlan
from sd3tune.plan.length import DataPlan, ParallelPlan
from sd3tune.plan.objective import LossPlan
from sd3tune.plan.optimisation import OptimizerPlan
from sd3tune.plan.picture_plan import PicturePlan
from sd3tune.plan.publishing import PublishingPlan
from sd3tune.plan.reporting import ReportingPlan
from sd3tune.plan.result import ResultPlan
from sd3tune.plan.trainable import TrainedPlan
from sd3tune.plan.watching import PreviewPlan, WebhookPlan
from sd3tune.processes.environment import Processes
from sd3tune.sd3.variants import Model


@dataclass(frozen=True)
class ModelFiles:
    """Which files of a repository are meant, as from_pretrained takes it."""

    name: Decision[str]  # of the model
    revision: str | None  # branch, tag or commit
    variant: str | None  # such as fp16


@dataclass(frozen=True)
class Plan:
    """docs/reference/json.md has the names under which `plan --json` prints it."""

    config: Config  # what it was made from: recorded, never asked
    facts: Facts
    model: Model
    files: ModelFiles
    output_dir: Path
    seed: int
    hardware: HardwarePlan
    precision: PrecisionPlan
    attention: AttentionPlan
    memory: MemoryPlan
    data: DataPlan
    captions: CaptionPlan
    loss: LossPlan
    optimizer: OptimizerPlan
    trained: TrainedPlan
    checkpoints: CheckpointPlan
    pictures: PicturePlan
    previews: PreviewPlan
    webhooks: WebhookPlan
    evaluation: EvaluationPlan | None  # of the loss during training; None: before and after only
    score: ScorePlan | None  # of pictures
    result: ResultPlan
    reporting: ReportingPlan
    publishing: PublishingPlan
    processes: Processes  # which one this is
    parallel: ParallelPlan
    warnings: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Images of a batch; a dataset may have its own."""
        return self.data.batch_size.value

    @property
    def images_per_pass(self) -> int:
        """Images of a batch that are computed at once, at most."""
        return min(self.batch_size, self.memory.load.batch)

    @property
    def steps(self) -> int:
        """Optimizer steps in total."""
        return self.data.steps.value

    @property
    def batches_per_step(self) -> int:
        """Batches of one optimizer step, over all processes."""
        return self.data.accumulation.value * self.processes.size
