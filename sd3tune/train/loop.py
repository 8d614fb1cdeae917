"""The loop: batches in, steps taken, and every n steps something is written or looked at."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sd3tune import out_of_memory
from sd3tune.data.batch import Batch
from sd3tune.plan.learning_rate import LearningRate
from sd3tune.processes.world import World
from sd3tune.train.guard import Guard, rate_share
from sd3tune.train.interrupt import Interrupt
from sd3tune.train.optim import set_rate
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState
from sd3tune.train.step import train_step
from sd3tune.train.step_log import StepLog


@dataclass(frozen=True)
class Job:
    """What stays the same from the first step to the last."""

    recipe: Recipe
    guard: Guard
    rate: LearningRate
    steps: int  # in total
    accumulation: int  # batches per step, of this process
    world: World
    wrapped: Any = None  # the model inside DDP; None: the model itself
    enough: Callable[[TrainState], bool] = lambda state: False  # training ends early


@dataclass(frozen=True)
class Chore:
    """A task that runs after each step for which it is due."""

    due: Callable[[TrainState], bool]
    do: Callable[[], object]


def loop(
    state: TrainState,
    batches: Iterator[Batch],
    job: Job,
    chores: Sequence[Chore],
    interrupt: Interrupt,
    log: StepLog,
) -> None:
    """Steps until the job is done or a signal comes. `batches` must start where `state.position`
    does."""
    while not (state.step >= job.steps or job.enough(state) or interrupt.agree(job.world)):
        started = time.perf_counter()
        set_rate(state.optimizer, job.rate.at(state.step) * rate_share(state))
        group = list(islice(batches, job.accumulation))
        with out_of_memory.during(out_of_memory.step_of(group)):
            taken = train_step(state, group, job.recipe, job.guard, job.world, job.wrapped)
        log.write(state, taken, group, time.perf_counter() - started)
        for chore in chores:
            if chore.due(state):
                chore.do()


def every(steps: int) -> Callable[[TrainState], bool]:
    """Due after each so many steps; never for 0."""
    return lambda state: steps > 0 and state.step % steps == 0
