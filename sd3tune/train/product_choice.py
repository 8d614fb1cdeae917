"""Which layers multiply in 8 bits, by what rounding their inputs does to the loss.

An error of 1 % in every layer is nothing to a model of random weights, and adds 0.6 % to the loss
of a trained one. So the base model is also asked for its losses: as it would train, and with the
dequantised weights alone. Where the two differ by more than LIMIT in the mean, without regard to
signs that may cancel, the layers with the largest errors leave 8 bits, as few as suffice. Rounded
weights are in both: what they cost cannot be measured without the unquantised model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from statistics import mean
from typing import Any

import torch

from sd3tune.processes.world import World
from sd3tune.quant.product_errors import Errors
from sd3tune.quant.w8a8 import W8A8Linear
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.train.evaluation import DRAW, FixedImages
from sd3tune.train.noise import draw
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState

LEVELS = (0.1, 0.5, 0.9)  # noise levels at which layers and losses are measured
IMAGES = 4  # of the fixed ones
LIMIT = 5e-4  # change of a loss, in the mean; half of what a run may differ by after 200 steps

LossesOf = Callable[[Sequence[str]], Sequence[float]]  # with these layers at dequantised weights


def chosen(
    errors: Errors, above: Sequence[str], losses_of: LossesOf
) -> tuple[tuple[str, ...], float]:
    """The layers that multiply by their dequantised weights, and how much rounding the inputs of
    the others then changes a loss, in the mean. above: layers that do so in any case."""
    rest = sorted(errors.keys() - set(above), key=lambda name: (-errors[name].forward, name))
    by_error = (*above, *rest)
    exact, low, high = losses_of(by_error), len(above), len(by_error)

    def change(count: int) -> float:
        ours = losses_of(by_error[:count])
        return mean(abs(a - b) for a, b in zip(ours, exact, strict=True))

    if (first := change(low)) <= LIMIT:
        return by_error[:low], first
    best = 0.0  # with all of them
    while high - low > 1:
        middle = (low + high) // 2
        if (now := change(middle)) <= LIMIT:
            high, best = middle, now
        else:
            low = middle
    return by_error[:high], best


def base_losses(
    state: TrainState,
    layers: Mapping[str, W8A8Linear],
    images: FixedImages,
    recipe: Recipe,
    world: World,
    *,
    compiled: bool,
) -> LossesOf:
    """The losses of the base model for images and LEVELS, as a function of the layers that multiply
    by their dequantised weights. All processes must ask, and get the same answer."""

    def losses_of(names: Sequence[str]) -> Sequence[float]:
        for name, layer in layers.items():
            layer.weights_only = name in names
        asked = product(images.batches[:IMAGES], range(len(LEVELS)))
        with torch.no_grad(), state.trained.off(), uncompiled(compiled):
            losses = [_loss(state, batch, number, recipe) for batch, number in asked]
        return world.gathered(tuple(losses))

    return losses_of


def _loss(state: TrainState, batch: Any, number: int, recipe: Recipe) -> float:
    device = batch.latents.device
    eps, s = draw(recipe.seed, DRAW + number, batch).eps, torch.full((1,), LEVELS[number])
    with autocast(device, recipe.autocast):
        loss = flow.loss(denoiser(state.model), batch.latents,
                         (batch.prompt_embeds, batch.pooled), eps, s.to(device))  # fmt: skip
    return float(loss.mean())


def uncompiled(compiled: bool) -> AbstractContextManager[Any]:
    """Blocks run as they are written. Nothing is compiled anew for it, or forgotten."""
    if not compiled:  # dynamo is not imported for nothing
        return nullcontext()
    context: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return context
