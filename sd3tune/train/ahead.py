"""Draws noise and noise levels in the loader's threads, before the step that needs them."""

from dataclasses import replace

from sd3tune.data.batch import Batch
from sd3tune.data.loader import Ahead
from sd3tune.plan.objective import NoiseLevels
from sd3tune.train.noise import drawn
from sd3tune.train.state import TrainState


def ahead(how: NoiseLevels, seed: int, state: TrainState, per_step: int) -> Ahead:
    """Draws in the loader's threads what a step will need, so that no step waits for it. state:
    where training goes on. per_step: batches of a step, of all processes."""
    step, position = state.step, state.position

    def add(at: int, batch: Batch) -> Batch:
        return replace(batch, drawn=drawn(how, seed, step + (at - position) // per_step, batch))

    return add
