"""The pieces of a run put together: model, quantisation, adapter, optimizer, newest checkpoint."""

from pathlib import Path
from typing import Any

import torch

from sd3tune.adapters import lora
from sd3tune.data.dice import seed_of
from sd3tune.plan.resolve import Plan
from sd3tune.report.progress import say
from sd3tune.sd3 import weights
from sd3tune.train import checkpoint, checkpointing, offload, quantised
from sd3tune.train.optim import build
from sd3tune.train.state import TrainState
from sd3tune.train.step import Recipe


def begin(plan: Plan, device: torch.device) -> TrainState:
    """The transformer with its adapter on the device, and the state of the newest checkpoint."""
    config = plan.config
    model = quantised.transformer(plan, device)
    lora.attach(
        model,
        rank=config.lora_rank,
        alpha=config.lora_alpha or config.lora_rank,
        dropout=config.lora_dropout,
        targets=plan.lora_targets,
        dtype=weights.DTYPES[plan.value("trainable_dtype")],
        seed=seed_of(config.seed, "adapter"),
    )
    offload.place(model, plan, device)
    checkpointing.enable(model.train(), plan)
    compile_blocks(model, plan.value("dynamo_backend"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = build(
        plan.value("optimizer"), trained, config.learning_rate, config.optimizer_options
    )
    scaler = torch.amp.GradScaler(device.type, enabled=plan.value("grad_scaler") == "on")
    state = TrainState(model, optimizer, scaler)
    resume(state, plan)
    return state


def resume(state: TrainState, plan: Plan) -> None:
    asked, output = plan.config.resume_from_checkpoint, plan.config.output_dir
    if asked == "never":
        return
    folder: Path | None = Path(asked)
    if asked == "latest":
        folder, passed = checkpoint.latest(output)
        for sentence in passed:
            say(f"warning: {sentence}")
    if folder is not None:
        checkpoint.load(state, folder)
        say(f"resumes  {folder} (step {state.step} of {plan.steps})")


def recipe_of(plan: Plan) -> Recipe:
    config = plan.config
    autocast = plan.value("mixed_precision")
    return Recipe(
        seed=config.seed,
        shift=None if config.flow_schedule_auto_shift else config.flow_schedule_shift,
        uniform=config.flow_use_uniform_schedule,
        sigmoid_scale=config.flow_sigmoid_scale,
        max_grad_norm=config.max_grad_norm,
        autocast=None if autocast == "no" else weights.DTYPES[autocast],
        attention=plan.value("attention_mechanism"),
        masked=config.masked_loss_probability,
    )


def compile_blocks(model: Any, backend: str) -> None:
    """torch.compile of the transformer's blocks, which all have one shape: compiled once."""
    if backend == "no":
        return
    for block in model.transformer_blocks:
        block.compile(backend=backend)
