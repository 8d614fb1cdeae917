"""The loop: batches in, steps taken, and every n steps something is written or looked at."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType

from sd3tune.data.batch import Batch
from sd3tune.report.progress import Stage
from sd3tune.train import out_of_memory
from sd3tune.train.state import TrainState
from sd3tune.train.step import Recipe, Taken, train_step


@dataclass(frozen=True)
class Every:
    """A thing to do after each `steps` steps."""

    steps: int
    do: Callable[[], None]


@dataclass
class Interrupt:
    """Set by SIGINT or SIGTERM: the loop finishes its step. A second signal ends the process."""

    signal: int | None = None
    handlers: dict[int, object] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for each, before in self.handlers.items():
            signal.signal(each, before)  # type: ignore[arg-type]


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    for caught in (signal.SIGINT, signal.SIGTERM):
        interrupt.handlers[caught] = signal.signal(caught, interrupt)
    try:
        yield interrupt
    finally:
        for number, before in interrupt.handlers.items():
            signal.signal(number, before)  # type: ignore[arg-type]


def loop(
    state: TrainState,
    batches: Iterator[Batch],
    recipe: Recipe,
    *,
    total: int,
    accumulate: int,
    learning_rate: Callable[[int], float],
    chores: Sequence[Every],
    interrupt: Interrupt,
    stage: Stage,
    used: Callable[[], str],
) -> None:
    """Steps until `total` or until a signal. `batches` must start where `state.step` does."""
    from sd3tune.train.optim import set_rate

    while state.step < total and interrupt.signal is None:
        started = time.perf_counter()
        set_rate(state.optimizer, learning_rate(state.step))
        some = list(islice(batches, accumulate))
        with out_of_memory.during(out_of_memory.step_of(some)):
            taken = train_step(state, some, recipe)
        stage.advance(1, words(taken, time.perf_counter() - started, used()))
        for chore in chores:
            if state.step % chore.steps == 0:
                chore.do()


def words(taken: Taken, seconds: float, memory: str) -> str:
    return f"loss {taken.loss:.4f}  {seconds:.2f} s/step  {memory}  grad {taken.grad_norm:.3f}"
