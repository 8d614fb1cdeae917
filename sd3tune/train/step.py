"""One optimizer step. When this file outgrows one screen, something in it belongs elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sd3tune.backends.kernels.sdpa import kernel
from sd3tune.backends.kernels.torch_devices import seed_device
from sd3tune.data.batch import Batch, in_parts
from sd3tune.data.seeds import seed_of
from sd3tune.plan.objective import SpikeAction
from sd3tune.processes.world import ALONE_ON_CPU, World, unsynchronised
from sd3tune.train.clip import clip, norm_of
from sd3tune.train.guard import BAD_NUMBERS, Guard, StepImage
from sd3tune.train.losses import Losses, losses
from sd3tune.train.recipe import Recipe
from sd3tune.train.state import TrainState


@dataclass(frozen=True)
class Taken:
    """What a step came to, measured before its update."""

    loss: float  # mean over the images of all processes
    grad_norm: float  # before clipping
    weight_norm: float  # of everything that trains
    seen: tuple[StepImage, ...] = ()
    spike: SpikeAction | None = None  # what the guard did


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    recipe: Recipe,
    guard: Guard = BAD_NUMBERS,
    world: World = ALONE_ON_CPU,
    wrapped: Any = None,
) -> Taken:
    """Forward and backward over the accumulated batches of this process, then one update from the
    batches of all. wrapped: the model inside DDP (`world.replicated`); None: the model itself."""
    parts = in_parts(batches, recipe.images_per_pass)
    (images,) = world.sum(sum(len(batch.ids) for batch in batches))
    share = images / world.size  # gradients are averaged over the processes, not summed
    total = torch.zeros((), device=batches[0].latents.device)
    scored: list[Losses] = []
    # Dropout draws from torch's own generator: seeded by step, a resumed run drops the same units.
    seed_device(world.device, seed_of(recipe.seed, state.step, "dropout", *dropout_seed(world)))
    with kernel(recipe.attention), state.trained.cast_once(recipe.autocast):
        for part in parts:
            with unsynchronised(wrapped, last=part is parts[-1]):
                scored.append(losses(state.trained, part, recipe, state.step, wrapped))
                loss = scored[-1].each.sum() / share
                state.scaler.scale(loss).backward()
            total += loss.detach()
    state.scaler.unscale_(state.optimizer)
    norm = clip(state.trainable, recipe.max_grad_norm, recipe.clip_method)
    # The one time that a step waits for the device: bad numbers must not reach the weights.
    sums = torch.stack([total, norm, norm_of(state.trainable)]).float()
    each = torch.cat([sums, *(f.each.detach().float() for f in scored)]).tolist()
    loss, grad_norm, weight_norm = each[:3]
    (loss_of_all,) = world.sum(loss / world.size)
    images_seen = world.gathered(seen(parts, scored, each[3:]))
    taken = Taken(loss_of_all, grad_norm, weight_norm, images_seen)
    guard.refuse_bad_numbers(state, taken.loss, taken.grad_norm, taken.seen)
    state.updating = True
    spike = guard.spike(state, taken.loss, taken.seen)
    if spike != "skip":
        state.scaler.step(state.optimizer)  # with fp16, skips the update when gradients overflow
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.position += len(batches) * world.size
    state.noise = (state.noise + sum(s.noise for s in taken.seen)) % 2**64
    if state.ema is not None:
        state.ema.update(state.step)
    state.updating = False
    return replace(taken, spike=spike)


def dropout_seed(world: World) -> tuple[int, ...]:
    """The rank as a part of the dropout seed, so that processes drop different units; empty for one
    process."""
    return (world.processes.rank,) if world.size > 1 else ()


def seen(
    batches: Sequence[Batch], scored: Sequence[Losses], each: Sequence[float]
) -> tuple[StepImage, ...]:
    """Every image of the step with its level, loss and noise. each: their losses."""
    levels = torch.cat([f.levels for f in scored]).tolist()
    ids = (i for batch in batches for i in batch.ids)
    noise = (n for f in scored for n in f.noise)
    return tuple(map(StepImage, ids, levels, each, noise))
