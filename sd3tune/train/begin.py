"""The pieces of a run put together: model, quantisation, adapter, optimizer, newest checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch

from sd3tune import load
from sd3tune.adapters import full, lora, lycoris
from sd3tune.adapters.trained import Trained
from sd3tune.data.seeds import seed_of
from sd3tune.errors import CheckpointError
from sd3tune.formats import adapter_files
from sd3tune.plan.resolve import Plan
from sd3tune.processes.world import World, sharded
from sd3tune.report.progress import say
from sd3tune.sd3 import attention, weights
from sd3tune.train import checkpointing, offload
from sd3tune.train.ema import Ema
from sd3tune.train.levels import levels_of
from sd3tune.train.losses import Recipe
from sd3tune.train.optim import build
from sd3tune.train.resume import resume
from sd3tune.train.rollout import rollout_of
from sd3tune.train.state import TrainState


def begin(plan: Plan, world: World) -> TrainState:
    """The transformer with what is trained on the device, and the state of the newest
    checkpoint."""
    config = plan.config
    model = load.transformer(plan, world.device)
    attention.place(model, plan.value("attention_inputs"), plan.value("attention_mechanism"))
    trained = attach(model, plan)
    offload.place(model, plan, world.device)
    checkpointing.enable(model.train(), plan)
    if config.fsdp_enable and world.size > 1:
        sharded(model, world, reshard=config.fsdp_reshard_after_forward)
    compile_blocks(model, plan.value("dynamo_backend"))
    optimizer = build(
        plan.value("optimizer"),
        list(trained.named().values()),
        plan.learning_rate,
        config.optimizer_options,
        gradients=config.gradient_precision,
    )
    enabled = plan.value("grad_scaler") == "on"
    scaler = torch.amp.GradScaler(world.device.type, enabled=enabled)
    state = TrainState(trained, optimizer, scaler, ema_of(plan, trained))
    resume(state, plan, world)
    refuse_apart(world.gathered((state.step,)), plan)
    return state


def refuse_apart(steps: Sequence[int], plan: Plan) -> None:
    """Processes that would train different weights from here on."""
    if len(set(steps)) > 1:
        words = ", ".join(map(str, steps))
        raise CheckpointError(
            f"the processes of this run begin at different steps: {words}",
            hint=f"let all machines see the same output_dir; here it is {plan.config.output_dir}",
        )


def attach(model: Any, plan: Plan) -> Trained:
    """What is trained, in or beside the frozen model."""
    c = plan.config
    dtype = weights.DTYPES[plan.value("trainable_dtype")]
    seed = seed_of(c.seed, "adapter")
    if c.model_type == "full":
        return full.attach(model, plan.model.source, dtype=dtype)
    if plan.lycoris is not None:
        network = lycoris.attach(model, plan.lycoris, dtype=dtype, seed=seed)
        if c.init_lora is not None:
            say(f"begins   with {network.begin_with(c.init_lora)} layers of {c.init_lora}")
        return network
    shape = lora.Shape(
        rank=c.lora_rank,
        alpha=c.lora_alpha or c.lora_rank,
        dropout=c.lora_dropout,
        targets=plan.lora_targets,
        dora=c.use_dora,
        rslora=c.use_rslora,
        init=c.lora_init_type,
    )
    adapter = lora.attach(model, shape, dtype=dtype, seed=seed, dialect=c.lora_format)
    if c.init_lora is not None:
        layers = adapter.begin_with(adapter_files.read(c.init_lora), str(c.init_lora))
        say(f"begins   with {layers} layers of {c.init_lora}")
    return adapter


def ema_of(plan: Plan, trained: Trained) -> Ema | None:
    c = plan.config
    if not c.use_ema:
        return None
    return Ema.of(
        trained,
        decay=c.ema_decay,
        warmup=c.ema_warmup_steps,
        interval=c.ema_update_interval,
        device=c.ema_device,
    )


def recipe_of(plan: Plan) -> Recipe:
    config = plan.config
    autocast = plan.value("mixed_precision")
    return Recipe(
        seed=config.seed,
        levels=levels_of(config),
        max_grad_norm=config.max_grad_norm,
        grad_clip_method=config.grad_clip_method,
        autocast=None if autocast == "no" else weights.DTYPES[autocast],
        attention=plan.value("attention_mechanism"),
        masked=config.masked_loss_probability,
        mask_share=config.masked_loss_normalize,
        loss_type=config.loss_type,
        huber_c=config.huber_c,
        huber_schedule=config.huber_schedule,
        perturbation=config.input_perturbation,
        perturbation_steps=config.input_perturbation_steps,
        rollout=rollout_of(config),
    )


def compile_blocks(model: Any, backend: str) -> None:
    """torch.compile of the transformer's blocks, which all have one shape: compiled once."""
    if backend == "no":
        return
    for block in model.transformer_blocks:
        block.compile(backend=backend)
