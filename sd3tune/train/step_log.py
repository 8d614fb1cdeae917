"""Records every step: a line in metrics.jsonl, and the progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass

from sd3tune import backends
from sd3tune.data.batch import Batch
from sd3tune.plan.memory import gib
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World
from sd3tune.report.events import StepTaken
from sd3tune.report.metrics import Metrics
from sd3tune.report.progress import Stage, warn
from sd3tune.report.stream import Stream
from sd3tune.sd3.variants import PATCH
from sd3tune.train.state import TrainState
from sd3tune.train.step import Taken

SPIKE = {"skip": "update skipped", "lower": "learning rate halved for a while"}


@dataclass(frozen=True)
class StepLog:
    """Writes the numbers of a step."""

    plan: Plan
    metrics: Metrics
    bar: Stage
    world: World
    stream: Stream

    def write(
        self, state: TrainState, taken: Taken, batches: Sequence[Batch], seconds: float
    ) -> None:
        """Every process must call this, because images are split over them. Process 0 writes."""
        (tokens,) = self.world.sum(sum(map(tokens_of, batches)))
        if self.world.main:
            numbers = {
                "loss": taken.loss,
                "learning_rate": state.optimizer.param_groups[0]["lr"],
                "grad_norm": taken.grad_norm,
                "weight_norm": taken.weight_norm,
                "tokens": int(tokens),
                "seconds": seconds,
                "spike": taken.spike,
            }
            images = tuple((s.level, s.loss) for s in taken.seen)
            self.metrics.write(state.step, numbers, images)
            self.stream.emit(StepTaken(state.step, numbers, images))
            if taken.spike is not None:
                warn(f"step {state.step}: loss {taken.loss:g} is a spike, {SPIKE[taken.spike]}")
        line = f"loss {taken.loss:.4f}  {seconds:.2f} s/step"
        grad = f"grad {taken.grad_norm:.3f}"
        self.bar.advance(1, lambda: f"{line}  {memory_in_use(self.plan)}  {grad}")


def memory_in_use(plan: Plan) -> str:
    """Memory of the device in use, as "3.1 GiB"; empty where it is unknown."""
    amount = backends.module(plan.facts.vendor).used_bytes(plan.hardware.device.index)
    return "" if amount is None else gib(amount)


def tokens_of(batch: Batch) -> int:
    """Number of image tokens of a batch; a token is 16 x 16 pixels."""
    height, width = batch.latents.shape[-2:]
    return len(batch.ids) * int(height // PATCH) * int(width // PATCH)
