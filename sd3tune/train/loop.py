"""The loop: batches in, steps taken, and every n steps something is written or looked at."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType
from typing import Any

import torch
from torch import nn

from sd3tune import out_of_memory
from sd3tune.adapters.trained import whole
from sd3tune.data.batch import Batch
from sd3tune.processes.world import World
from sd3tune.report.metrics import Metrics
from sd3tune.report.progress import Stage, warn
from sd3tune.sd3.variants import PATCH
from sd3tune.train.guard import Guard, share
from sd3tune.train.losses import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import Taken, train_step


@dataclass(frozen=True)
class Chore:
    """A thing to do after the steps for which it is due."""

    due: Callable[[TrainState], bool]
    do: Callable[[], object]


@dataclass
class Interrupt:
    """Set by SIGINT, SIGTERM or SIGHUP: the loop finishes its step. A second SIGINT or SIGTERM ends
    the process; a terminal that closes sends SIGHUP more than once, and that is one."""

    signal: int | None = None
    handlers: dict[int, object] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for each, before in self.handlers.items():
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else before)  # type: ignore[arg-type]

    def agree(self, world: World) -> bool:
        """Whether any process was told to stop: then all are."""
        self.signal = world.largest(self.signal or 0) or None
        return self.signal is not None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catches signals as long as the block runs. A SIGHUP that `nohup` had ignored stays so."""
    interrupt = Interrupt()
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if caught != signal.SIGHUP or signal.getsignal(caught) is not signal.SIG_IGN:
            interrupt.handlers[caught] = signal.signal(caught, interrupt)
    try:
        yield interrupt
    finally:
        for number, before in interrupt.handlers.items():
            if number != signal.SIGHUP or interrupt.signal is None:  # else: ignored to the end
                signal.signal(number, before)  # type: ignore[arg-type]


def loop(
    state: TrainState,
    batches: Iterator[Batch],
    recipe: Recipe,
    *,
    total: int,
    accumulate: int,
    learning_rate: Callable[[int], float],
    chores: Sequence[Chore],
    interrupt: Interrupt,
    stage: Stage,
    used: Callable[[], str],
    called: Any,
    world: World,
    guard: Guard,
    metrics: Metrics,
) -> None:
    """Steps until `total` or until a signal. `batches` must start where `state.position` does."""
    from sd3tune.train.optim import set_rate

    while state.step < total and not interrupt.agree(world):
        started = time.perf_counter()
        set_rate(state.optimizer, learning_rate(state.step) * share(state))
        group = list(islice(batches, accumulate))
        with out_of_memory.during(out_of_memory.step_of(group)):
            taken = train_step(state, group, recipe, guard, called, world)
        seconds = time.perf_counter() - started
        # Of all processes, so all take part: weights may be split over them, and images are.
        weights, (tokens,) = weight_norm(state), world.sum(sum(map(tokens_of, group)))
        if world.main:
            record(metrics, state, taken, weights, int(tokens), seconds)
        stage.advance(1, words(taken, seconds, used()))
        for chore in chores:
            if chore.due(state):
                chore.do()


def every(steps: int) -> Callable[[TrainState], bool]:
    """Due after each so many steps; never for 0."""
    return lambda state: steps > 0 and state.step % steps == 0


def weight_norm(state: TrainState) -> float:
    """Of everything that trains."""
    with torch.no_grad():
        return float(whole(nn.utils.get_total_norm(state.trainable)))


def tokens_of(batch: Batch) -> int:
    height, width = batch.latents.shape[-2:]
    return len(batch.ids) * int(height // PATCH) * int(width // PATCH)


def record(
    metrics: Metrics, state: TrainState, taken: Taken, weights: float, tokens: int, seconds: float
) -> None:
    """The step's line in metrics.jsonl; a spike is also said aloud."""
    numbers = {
        "loss": taken.loss,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "grad_norm": taken.grad_norm,  # before clipping
        "weight_norm": weights,
        "tokens": tokens,
        "seconds": seconds,
        "spike": taken.spike,
    }
    metrics.write(state.step, numbers, [(s.level, s.loss) for s in taken.seen])
    if taken.spike is not None:
        done = {"skip": "update skipped", "lower": "learning rate halved for a while"}[taken.spike]
        warn(f"step {state.step}: loss {taken.loss:g} is a spike, {done}")


def words(taken: Taken, seconds: float, memory: str) -> str:
    return f"loss {taken.loss:.4f}  {seconds:.2f} s/step  {memory}  grad {taken.grad_norm:.3f}"
