"""Peak memory of a training step: the run's own code, from the adapter to the optimizer, on fake
tensors of the planned sizes.

The first optimizer step makes the optimizer's state; what is counted is the step after it. What a
fake step cannot do is left out: noise is not drawn but only has its shape, and nothing is read back
from the device.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sd3tune import modulations, offload
from sd3tune.adapters.trained import Trained
from sd3tune.counted import as_on_a_card, fake_weights
from sd3tune.counted.living_storages import Group, LivingStorages
from sd3tune.plan.evaluation_plan import MEASURED_TWICE
from sd3tune.plan.plan import Plan
from sd3tune.sd3 import attention, flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.sd3.variants import CLIP_TOKENS, PATCH
from sd3tune.sd3.weights import DTYPES
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.train import begin, checkpointing
from sd3tune.train.clip import clip
from sd3tune.train.latent_loss import distance
from sd3tune.train.optim import build

DEVICE = torch.device(as_on_a_card.DEVICE)


@dataclass(frozen=True)
class CountedStep:
    """before: bytes before the loop, weights and resident data. forward: at the end of the forward
    pass. peak: the largest. at_peak: what the peak is made of."""

    before: int
    forward: int
    peak: int
    at_peak: dict[Group, int]


def count(plan: Plan, fp8: str = "none") -> CountedStep:
    """Bytes on the device in one training step of the plan."""
    model = fake_weights.blank(plan.model.transformer, DTYPES[plan.precision.base.value])
    fake_weights.quantise(model, plan.precision.transformer.value, fp8)
    attention.use_processors(model, plan.attention.inputs.value, plan.attention.training.value)
    with torch.device("meta"):
        trained = begin.attach(model, plan)
    load = plan.memory.load
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        LivingStorages() as living,
        as_on_a_card.as_on(load.vendor, scores=load.scores),
    ):
        fake_weights.in_memory(model, on_device)
        away = living.elsewhere
        if (where := plan.memory.modulations.value) != "device":
            modulations.take_out(model, where, DEVICE, away)
            offload.positions_to_host(model, away, torch.clone)
        if swapped := plan.memory.blocks_to_swap.value:
            offload.stream(model, swapped, away, torch.clone)
        return _Step(plan, trained, living).counted()


def on_device(tensor: Tensor) -> Tensor:
    """A fake tensor of the same layout in the device's memory."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=DEVICE)


@dataclass
class _Step:
    """One step under the modes that are entered around it."""

    plan: Plan
    trained: Trained
    living: LivingStorages

    def counted(self) -> CountedStep:
        model, plan = self.trained.model.train(), self.plan
        enable_checkpointing(model, plan, self.living)
        parameters = list(self.trained.named().values())
        step_optimizer = optimizer_of(plan, parameters)
        average = begin.average_of(plan.optimizer.average, self.trained)
        resident = [fake_batch(plan, 1) for _ in range(min(MEASURED_TWICE, plan.result.images))]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        step_optimizer()
        for parameter in parameters:
            parameter.grad = None
        before = self.living.now
        self.living.begin()
        for _ in range(min(plan.data.accumulation.value, 2)):
            loss = self._loss()
            forward = self.living.now
            loss.backward()
            del loss
        clip(parameters, plan.optimizer.max_grad_norm, plan.optimizer.clip_method)
        step_optimizer()
        if average is not None and plan.optimizer.average.device != "cpu":
            average.update(plan.optimizer.average.every)
        del resident
        return CountedStep(before, forward, self.living.peak, self.living.at_peak)

    def _loss(self) -> Tensor:
        plan = self.plan
        x0, embeds, pooled = fake_batch(plan, plan.memory.load.batch)
        eps, s = torch.empty_like(x0), torch.empty(len(x0), device=DEVICE)
        terms = flow.Terms(z=flow.add_noise(x0, eps, s), distance=distance(plan.loss, s))
        dtype = plan.precision.autocast.value
        with autocast(DEVICE, None if dtype is None else DTYPES[dtype]):
            model = denoiser(self.trained.model)
            return flow.loss(model, x0, (embeds, pooled), eps, s, terms).sum()


def fake_batch(plan: Plan, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, captions and pooled captions of a batch, float32 as the loader puts them there."""
    shape, load = plan.model.transformer, plan.memory.load
    rows, columns = rows_and_columns(load.tokens)
    size = images, shape.channels, rows * PATCH, columns * PATCH
    words = CLIP_TOKENS + load.text_tokens
    new = lambda *size: torch.empty(size, device=DEVICE)  # noqa: E731
    return new(*size), new(images, words, shape.joint_dim), new(images, shape.pooled_dim)


def rows_and_columns(tokens: int) -> tuple[int, int]:
    """The squarest grid of so many tokens."""
    rows = next(n for n in range(isqrt(tokens), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


def optimizer_of(plan: Plan, parameters: list[nn.Parameter]) -> Callable[[], Any]:
    """The step of the planned optimizer. PyTorch's own runs; of libraries whose kernels take no
    fake tensors, the state has the bytes of the optimizer's row."""
    row, options = OPTIMIZERS[plan.optimizer.name.value], plan.optimizer
    if row.library.startswith(("torch.optim", "sd3tune")):
        own = build(row.name, parameters, options.rate.peak, options.options,
                    gradients=options.gradients)  # fmt: skip
        as_on_a_card.over_all_weights(own)
        return own.step
    values = sum(p.numel() for p in parameters)
    state = torch.empty(int(values * row.state_bytes), dtype=torch.uint8, device=DEVICE)
    return lambda: state


def enable_checkpointing(model: Any, plan: Plan, living: LivingStorages) -> None:
    """As the run does; inputs that wait on the host leave the device's memory."""
    memory = plan.memory
    if memory.checkpointing.value and memory.checkpoint_backend.value == "unsloth":
        checkpointing.keep_in_blocks(model, memory.keep.value, lambda: saved_elsewhere(living))
    else:
        checkpointing.enable(model, plan)


def saved_elsewhere(living: LivingStorages) -> AbstractContextManager[None]:
    """Tensors saved for the backward pass wait in another memory, as with save_on_cpu."""

    @contextmanager
    def hooked() -> Iterator[None]:
        with saved_tensors_hooks(living.elsewhere, torch.clone):
            yield

    return hooked()
