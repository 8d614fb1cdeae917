"""How long a run is, how large its steps are, and which processes take part."""

from dataclasses import dataclass
from typing import TypeVar

from sd3tune.config.config import Config
from sd3tune.data.order import schedule
from sd3tune.decision import AUTO, Decision, Provenance, following
from sd3tune.plan.arithmetic import Chosen, or_none
from sd3tune.plan.inputs import RunInputs

T = TypeVar("T")


@dataclass(frozen=True)
class DataPlan:
    """How much data a run sees."""

    batch_size: Decision[int]  # images per forward pass; a dataset may have its own
    accumulation: Decision[int]  # batches per optimizer step, of each process
    steps: Decision[int]  # optimizer steps in total
    square: int  # pixels: side of a square of the training resolution, a multiple of 16


@dataclass(frozen=True)
class ParallelPlan:
    """How several processes train one model."""

    count: Decision[int]  # of all machines together
    backend: Decision[str | None]  # of torch.distributed; None: there is no other process
    sharded: bool  # weights, gradients and optimizer state are split over the processes (FSDP2)
    reshard: bool  # gathered weights are dropped between the forward and the backward pass


def data_plan(inputs: RunInputs, batch: Decision[int]) -> DataPlan:
    """Batches and steps. batch: what fits the memory, or what the user set."""
    c = inputs.config
    edge = c.resolution if c.resolution_type != "area" else (c.resolution * 1e6) ** 0.5
    return DataPlan(
        batch_size=batch,
        accumulation=as_set(
            c,
            "gradient_accumulation_steps",
            c.gradient_accumulation_steps,
            "one batch per optimizer step",
        ),
        steps=_steps(inputs, batch.value),
        square=max(64, round(edge / 16) * 16),
    )


def parallel_plan(inputs: RunInputs, batch: int, chosen: Chosen) -> ParallelPlan:
    """How the processes work together. batch: images per forward pass."""
    config, size = inputs.config, inputs.processes.size
    accumulated = config.gradient_accumulation_steps
    why = f"a step sees {batch * accumulated * size} images: {batch} x {accumulated} x {size}"
    sharded = config.fsdp_enable and size > 1
    if sharded:
        why += "; weights, gradients and optimizer state are split (FSDP2)"
    return ParallelPlan(
        count=Decision(size, _counted_by(config, size), why),
        backend=or_none(chosen["distributed_backend"], "none"),
        sharded=sharded,
        reshard=config.fsdp_reshard_after_forward,
    )


def _counted_by(config: Config, size: int) -> Provenance:
    """Who chose the number of processes: one machine's is a setting, that of several follows from
    two, and a launcher may have started another number."""
    if size == config.num_processes:
        return config.source("num_processes")
    asked = size == config.num_processes * config.num_machines
    return following(config.source("num_machines")) if asked else AUTO


def as_set(config: Config, name: str, value: T, default: str) -> Decision[T]:
    """A setting that needs no decision. default: the reason where the user left it out."""
    source = config.source(name)
    return Decision(value, source, "set in the configuration" if source.by == "user" else default)


def _steps(inputs: RunInputs, batch: int) -> Decision[int]:
    config = inputs.config
    if config.max_train_steps:
        why = "set in the configuration"
        return Decision(config.max_train_steps, config.source("max_train_steps"), why)
    epochs = config.num_train_epochs or 1
    order = schedule(
        inputs.samples, inputs.datasets, config, batch, processes=inputs.processes.size
    )
    why = f"{epochs} epochs of {order.steps_of(1)} steps over {len(inputs.samples)} images"
    return Decision(order.steps_of(epochs), following(config.source("num_train_epochs")), why)
