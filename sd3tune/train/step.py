"""One optimizer step. When this file outgrows one screen, something in it belongs elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd3tune.adapters.trained import Trained
from sd3tune.backends.kernels import kernel
from sd3tune.data.batch import Batch
from sd3tune.data.dice import seed_of
from sd3tune.errors import Diverged
from sd3tune.sd3 import flow
from sd3tune.sd3.condition import Denoiser
from sd3tune.sd3.variants import PATCH
from sd3tune.train.clip import clip
from sd3tune.train.noise import draw
from sd3tune.train.state import TrainState
from sd3tune.train.world import ALONE_ON_CPU, World, unsynchronised


@dataclass(frozen=True)
class Recipe:
    """How one step is taken: what the plan decided, and nothing that changes."""

    seed: int
    shift: float | None  # None: by the number of tokens (flow_schedule_auto_shift)
    uniform: bool  # noise levels uniform instead of logit-normal
    sigmoid_scale: float
    max_grad_norm: float  # 0: no clipping
    autocast: torch.dtype | None
    attention: str
    grad_clip_method: str = "norm"
    masked: float = 1.0  # share of the batches with masks whose loss is weighed by them


@dataclass(frozen=True)
class Taken:
    loss: float
    grad_norm: float


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    recipe: Recipe,
    called: Any = None,
    world: World = ALONE_ON_CPU,
) -> Taken:
    """Forward and backward over the accumulated batches of this process, then one update from those
    of all. called: the model as `world.replicated` wraps it."""
    called = state.model if called is None else called
    (images,) = world.sum(sum(len(batch.ids) for batch in batches))
    share = images / world.size  # gradients are averaged over the processes, not summed
    total = torch.zeros((), device=batches[0].latents.device)
    # Dropout draws from torch's own generator: seeded by step, a resumed run drops the same units.
    torch.manual_seed(seed_of(recipe.seed, state.step, "dropout", *one_of(world)))
    with kernel(recipe.attention):
        for batch in batches:
            with unsynchronised(called, last=batch is batches[-1]):
                loss = losses(state.trained, batch, recipe, state.step, called).sum() / share
                state.scaler.scale(loss).backward()
            total += loss.detach()
    state.scaler.unscale_(state.optimizer)
    norm = clip(state.trainable, recipe.max_grad_norm, recipe.grad_clip_method)
    # Waits for the device, on purpose: bad numbers must not reach the weights.
    (loss_of_all,) = world.sum(total.item() / world.size)
    taken = Taken(loss_of_all, norm.item())
    refuse_bad_numbers(taken, state)
    state.scaler.step(state.optimizer)  # with fp16, skips the update when scaled gradients overflow
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.position += len(batches) * world.size
    if state.ema is not None:
        state.ema.update(state.step)
    return taken


def one_of(world: World) -> tuple[int, ...]:
    """Processes drop different units; one alone draws as it always did."""
    return (world.processes.rank,) if world.size > 1 else ()


def losses(trained: Trained, batch: Batch, recipe: Recipe, step: int, called: Any = None) -> Tensor:
    """The paper's loss for each image of a batch (B,)."""
    eps, u = draw(recipe.seed, step, batch)
    s = u if recipe.uniform else flow.logit_normal(u, recipe.sigmoid_scale)
    s = flow.shifted(s, shift_of(batch, recipe)).to(batch.latents.device)
    masked = seed_of(recipe.seed, step, batch.ids[0], "mask") / 2**63 < recipe.masked
    condition = batch.prompt_embeds, batch.pooled
    with autocast(batch, recipe):
        return flow.loss(
            Denoiser(trained.model, called),
            batch.latents,
            condition,
            eps,
            s,
            weight=batch.mask if masked else None,
            teacher=partial(without_adapter, trained) if batch.regularisation else None,
        )


def without_adapter(trained: Trained, z: Tensor, t: Tensor, condition: Any) -> Tensor:
    """What the model said before it was adapted: the target on regularisation images."""
    with quiet(trained, adapter=False):
        return Denoiser(trained.model)(z, t, condition)


@contextmanager
def quiet(trained: Trained, adapter: bool) -> Iterator[None]:
    """Dropout off, and the adapter too unless asked for; as before afterwards."""
    training = trained.model.training
    trained.model.eval()
    try:
        with nullcontext() if adapter else trained.off():
            yield
    finally:
        trained.model.train(training)


def shift_of(batch: Batch, recipe: Recipe) -> float:
    height, width = batch.latents.shape[-2:]
    if recipe.shift is not None:
        return recipe.shift
    return flow.auto_shift((height // PATCH) * (width // PATCH))


def autocast(batch: Batch, recipe: Recipe) -> AbstractContextManager[None]:
    # Entered per forward: one context around the whole loop would cache the casts of LoRA weights
    # and freeze them at their first value (seen with torch 2.13).
    if recipe.autocast is None:
        return nullcontext()
    device = batch.latents.device.type
    context: AbstractContextManager[None] = torch.autocast(device, recipe.autocast)
    return context


def refuse_bad_numbers(taken: Taken, state: TrainState) -> None:
    finite = torch.isfinite(torch.tensor([taken.loss, taken.grad_norm]))
    if finite[0] and (finite[1] or state.scaler.is_enabled()):
        return
    raise Diverged(
        f"step {state.step + 1}: loss {taken.loss:g}, gradient norm {taken.grad_norm:g}",
        hint="lower learning_rate or max_grad_norm; nothing was written, the last checkpoint holds",
    )
