"""Modulations of the step after this one, computed while this one runs.

The captions and noise levels of a step are functions of the run's seed and of its batches, which
the loader has ready. So the batches of one step are read ahead, and what the model will be asked
is announced to `sd3tune/modulations.py`. Batches arrive unchanged and in their order.
"""

from collections.abc import Iterator
from itertools import islice

from sd3tune import modulations
from sd3tune.data.batch import Batch, in_parts
from sd3tune.modulations import Call, Modulations
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast
from sd3tune.train.noise import drawn
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState


def announced(
    batches: Iterator[Batch], state: TrainState, recipe: Recipe, accumulation: int
) -> Iterator[Batch]:
    """The same batches; each step's calls are announced one step before. accumulation: batches of
    this process in a step. Where the modulations are computed in the blocks, nothing is done."""
    outside = modulations.of(state.model)
    if outside is None:
        yield from batches
        return
    coming = _read(batches, accumulation, outside, recipe, step := state.step)
    while coming:
        now, step = coming, step + 1
        coming = _read(batches, accumulation, outside, recipe, step)
        yield from now


def _read(
    batches: Iterator[Batch], count: int, outside: Modulations, recipe: Recipe, step: int
) -> list[Batch]:
    """The batches of a step, announced."""
    read = list(islice(batches, count))
    if read:
        calls = [_call(batch, recipe, step) for batch in in_parts(read, recipe.images_per_pass)]
        outside.announce(calls, autocast(read[0].latents.device, recipe.autocast))
    return read


def _call(batch: Batch, recipe: Recipe, step: int) -> Call:
    """What `losses` will ask in that step. The teacher of regularisation images is asked the same,
    without gradients."""
    levels = drawn(recipe.loss.levels, recipe.seed, step, batch).levels
    timestep = levels.to(batch.latents.device) * flow.TIMESTEPS
    return Call(timestep, batch.pooled, without_gradient=batch.regularisation)
