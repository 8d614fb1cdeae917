"""Peak memory of a training step: the run's own code, from the adapter to the optimizer, on fake
tensors of the planned sizes.

The first optimizer step makes the optimizer's state; what is counted is the step after it. What a
fake step cannot do is left out: noise has only its shape, and nothing is read back from the device.
torch.compile is not counted: its blocks are counted as they compute eagerly, which keeps more.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sd3tune import modulations, offload
from sd3tune.adapters import full, lora, lycoris
from sd3tune.adapters.trained import Trained
from sd3tune.counted import as_on_a_card, fake_weights
from sd3tune.counted.living_storages import Group, LivingStorages
from sd3tune.plan.block_keeping import of_load
from sd3tune.plan.memory import Load
from sd3tune.plan.step_peak import shares_casts
from sd3tune.sd3 import attention, flow
from sd3tune.sd3.condition import autocast, denoiser
from sd3tune.sd3.variants import CLIP_TOKENS, PATCH, ModelSource, Transformer
from sd3tune.sd3.weights import DTYPES
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.train import checkpointing
from sd3tune.train.clip import clip
from sd3tune.train.ema import Ema
from sd3tune.train.optim import build

DEVICE = torch.device(as_on_a_card.DEVICE)


@dataclass(frozen=True)
class CountedStep:
    """before: bytes before the loop: weights, optimizer, resident data. forward: at the end of the
    forward pass. peak: the largest. at_peak: what the peak is made of."""

    before: int
    forward: int
    peak: int
    at_peak: dict[Group, int]


@dataclass(frozen=True)
class Stays:
    """What is on the device from step to step, beside weights and optimizer."""

    average: Ema | None
    resident: list[tuple[Tensor, Tensor, Tensor]]
    arriving: Tensor


def count(shape: Transformer, load: Load, *, fake: bool = True) -> CountedStep:
    """Bytes on the device in one training step of this load. fake=False: the same step with real
    tensors on the CPU, for small shapes: what it allocates is measured."""
    with laid(shape, load, fake=fake) as laid_out:
        return laid_out.counted()


@contextmanager
def laid(shape: Transformer, load: Load, *, fake: bool = True) -> "Iterator[Laid]":
    """The model of a run in the device's memory, with what trains, under the modes of a count."""
    model = fake_weights.blank(shape, DTYPES[load.base_dtype])
    fake_weights.quantise(model, load.precision)
    attention.use_processors(model, "views", "sliced" if load.slices else "diffusers")
    with torch.device("meta"):
        trained = attached(model, load)
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        LivingStorages(as_on_a_card.INSIDE) as living,
        as_on_a_card.as_on(load.vendor, scores=load.scores),
    ):
        fake_weights.in_memory(model, on_device)
        away = living.elsewhere
        if load.modulations_off:
            modulations.take_out(model, "streamed", DEVICE, away)
            offload.positions_to_host(model, away, torch.clone)
        if load.swapped:
            offload.stream(model, load.swapped, away, torch.clone)
        yield Laid(shape, load, trained, living)


def attached(model: Any, load: Load) -> Trained:
    """What trains, in or beside the model, as train/begin.py attaches it."""
    dtype = DTYPES[load.trainable_dtype]
    if load.full:
        return full.attach(model, ModelSource.of(""), dtype=dtype)
    if load.lycoris is not None:
        return lycoris.attach(model, load.lycoris, dtype=dtype, seed=0)
    adapter = lora.Shape(load.rank, load.rank, 0.1 if load.dropout else 0.0, load.targets,
                         dora=load.dora)  # fmt: skip
    made = lora.attach(model, adapter, dtype=dtype, seed=0)
    return lora.share_casts(made) if shares_casts(load) else made


def on_device(tensor: Tensor) -> Tensor:
    """A tensor of the same layout in the device's memory, fake where fakes are made; zeros."""
    made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=DEVICE)
    return made.zero_()


@dataclass
class Laid:
    """A run on its device, under the modes that are entered around it."""

    shape: Transformer
    load: Load
    trained: Trained
    living: LivingStorages

    def counted(self) -> CountedStep:
        """The second step: the first one makes the optimizer's state."""
        model, load = self.trained.model.train(), self.load
        keep = of_load(self.shape, load)
        if any(what != "everything" for what in keep):
            saving = saved_elsewhere(self.living) if load.inputs_on_host else nullcontext
            checkpointing.keep_in_blocks(model, keep, saving)
        parameters, update, stays = self.begun()
        before = self.living.now
        self.living.begin()
        with self.trained.cast_once(None if load.autocast is None else DTYPES[load.autocast]):
            for _ in range(min(load.accumulation, 2)):
                loss = self._loss()
                forward = self.living.now
                loss.backward()
                del loss
        clip(parameters, 1.0, "norm")
        update()
        if stays.average is not None:
            stays.average.update(1)
        del stays
        return CountedStep(before, forward, self.living.peak, self.living.at_peak)

    def begun(self) -> "tuple[list[nn.Parameter], Callable[[], Any], Stays]":
        """The trained parameters, the optimizer's step with the state of one step behind it, and
        what stays on the device beside."""
        load = self.load
        parameters = list(self.trained.named().values())
        update = optimizer_of(load, parameters)
        average = averages(self.trained) if load.ema else None
        resident = [fake_batch(self.shape, load, 1) for _ in range(load.resident)]
        arriving = arriving_layer(self.shape, load)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        update()
        for parameter in parameters:
            parameter.grad = None
        return parameters, update, Stays(average, resident, arriving)

    def _loss(self) -> Any:
        load = self.load
        x0, embeds, pooled = fake_batch(self.shape, load, load.batch)
        eps, s = torch.empty_like(x0), torch.empty(len(x0), device=DEVICE)
        terms = flow.Terms(z=flow.add_noise(x0, eps, s))
        with autocast(DEVICE, None if load.autocast is None else DTYPES[load.autocast]):
            model = denoiser(self.trained.model)
            return flow.loss(model, x0, (embeds, pooled), eps, s, terms).sum()


def arriving_layer(shape: Transformer, load: Load) -> Tensor:
    """Memory of one AdaLN layer whose weights come from the host: the allocator keeps it for the
    stream that copies, through the whole step."""
    values = (9 if shape.dual_layers else 6) * shape.hidden**2 if load.modulations_off else 0
    return torch.empty(values, dtype=DTYPES[load.base_dtype], device=DEVICE)


def fake_batch(shape: Transformer, load: Load, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, captions and pooled captions of a batch, float32 as the loader puts them there."""
    rows, columns = rows_and_columns(load.tokens)
    words = CLIP_TOKENS + load.text_tokens
    latents = torch.empty(images, shape.channels, rows * PATCH, columns * PATCH, device=DEVICE)
    embeds = torch.empty(images, words, shape.joint_dim, device=DEVICE)
    return latents, embeds, torch.empty(images, shape.pooled_dim, device=DEVICE)


def rows_and_columns(tokens: int) -> tuple[int, int]:
    """The squarest grid of so many tokens."""
    rows = next(n for n in range(isqrt(tokens), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


def optimizer_of(load: Load, parameters: list[nn.Parameter]) -> Callable[[], Any]:
    """The step of the optimizer. PyTorch's own and ours run; of libraries whose kernels take no
    fake tensors, the state has the bytes of the optimizer's row."""
    row = OPTIMIZERS[load.optimizer]
    if row.build.startswith(("torch.optim", "sd3tune")):
        own = build(row.name, parameters, 1e-4, {})
        as_on_a_card.over_all_weights(own)
        return own.step
    values = sum(p.numel() for p in parameters)
    state = torch.empty(int(values * row.state_bytes), dtype=torch.uint8, device=DEVICE)
    return lambda: state


def averages(trained: Trained) -> Ema:
    """A moving average of the trained values on the device."""
    return Ema.of(trained, decay=0.99, warmup=0, interval=1, device="accelerator")


def saved_elsewhere(living: LivingStorages) -> Callable[[], AbstractContextManager[Any]]:
    """Tensors saved for the backward pass wait in another memory, as on the host."""
    return lambda: saved_tensors_hooks(living.elsewhere, torch.clone)
