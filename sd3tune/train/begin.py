"""The pieces of a run put together: model, quantisation, adapter, optimizer, newest checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sd3tune import load, offload
from sd3tune.adapters import full, lora, lycoris, peft_import
from sd3tune.adapters.trained import Trained
from sd3tune.data.seeds import seed_of
from sd3tune.errors import CheckpointError
from sd3tune.formats import adapter_files
from sd3tune.formats.initial_adapter import initial_file
from sd3tune.plan.optimisation import AveragePlan
from sd3tune.plan.plan import Plan
from sd3tune.plan.step_peak import shares_casts
from sd3tune.plan.trainable import LoraPlan
from sd3tune.processes.world import World, sharded
from sd3tune.report.progress import say
from sd3tune.sd3 import attention, weights
from sd3tune.train import checkpointing
from sd3tune.train.compiling import compile_blocks
from sd3tune.train.ema import Ema
from sd3tune.train.optim import build
from sd3tune.train.resume import resume
from sd3tune.train.state import TrainState

LoadBase = Callable[[Plan, torch.device], Any]  # as load.transformer


def begin(plan: Plan, world: World, base: LoadBase = load.transformer) -> TrainState:
    """Loads the transformer onto the device, attaches the adapter, and loads the checkpoint from
    which the run continues. base: loads the base model."""
    with peft_import.for_layers_of(plan.precision.transformer.value):
        model = base(plan, world.device)
        kernels = plan.attention
        attention.use_processors(model, kernels.inputs.value, kernels.training.value)
        trained = attach(model, plan)
    hardware = plan.hardware
    compile_blocks(model, hardware.compiler.value, hardware.compile_options, plan.memory.keep.value)
    offload.move_to_device(model, plan, world.device)
    checkpointing.enable(model.train(), plan)
    if plan.parallel.sharded:
        sharded(model, world, reshard=plan.parallel.reshard)
    optimizer = build(
        plan.optimizer.name.value,
        list(trained.named().values()),
        plan.optimizer.rate.peak,
        plan.optimizer.options,
        gradients=plan.optimizer.gradients,
    )
    scaler = torch.amp.GradScaler(world.device.type, enabled=plan.precision.grad_scaler.value)
    state = TrainState(trained, optimizer, scaler, average_of(plan.optimizer.average, trained))
    resume(state, plan, world)
    refuse_apart(world.gathered((state.step,)), plan)
    return state


def refuse_apart(steps: Sequence[int], plan: Plan) -> None:
    """Raises CheckpointError where processes would train different weights from here on."""
    if len(set(steps)) > 1:
        listed = ", ".join(map(str, steps))
        raise CheckpointError(
            f"the processes of this run begin at different steps: {listed}",
            hint=f"let all machines see the same output_dir; here it is {plan.output_dir}",
        )


def attach(model: Any, plan: Plan) -> Trained:
    """What is trained, in or beside the frozen model. Raises ConfigError."""
    dtype = weights.DTYPES[plan.precision.trainable.value]
    seed, begin_with = seed_of(plan.seed, "adapter"), plan.trained.begin_with
    if plan.trained.lycoris is not None:
        network = lycoris.attach(model, plan.trained.lycoris, dtype=dtype, seed=seed)
        network = replace(network, file=plan.result.file)
        if begin_with is not None:
            with initial_file(begin_with) as file:
                say(f"begins   with {network.begin_with(file)} layers of {file}")
        return network
    if plan.trained.lora is None:
        return full.attach(model, plan.model.source, dtype=dtype)
    shape, dialect = shape_of(plan.trained.lora), plan.trained.lora.dialect
    adapter = lora.attach(model, shape, dtype=dtype, seed=seed, dialect=dialect)
    if plan.precision.autocast.value is not None and not (shape.dropout or shape.dora):
        lora.keep_input_dtype(model)
    if shares_casts(plan.memory.load):
        adapter = lora.share_casts(adapter)
    adapter = replace(adapter, file=plan.result.file)
    if begin_with is not None:
        with initial_file(begin_with) as file:
            held = adapter_files.read(file)
        say(f"begins   with {adapter.begin_with(held, str(file))} layers of {file}")
    return adapter


def shape_of(plan: LoraPlan) -> lora.Shape:
    """The adapter as lora.attach takes it."""
    return lora.Shape(
        rank=plan.rank,
        alpha=plan.alpha,
        dropout=plan.dropout,
        targets=plan.targets.value,
        dora=plan.dora,
        rslora=plan.rslora,
        init=plan.init,
    )


def average_of(plan: AveragePlan | None, trained: Trained) -> Ema | None:
    """The moving average, when the plan has one."""
    if plan is None:
        return None
    return Ema.of(
        trained,
        decay=plan.decay,
        warmup=plan.warmup_steps,
        interval=plan.every,
        device=plan.device,
    )
