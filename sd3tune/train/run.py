"""A run from plan to files: named stages in order, and nothing else.

prepare device -> encode captions, drop encoders -> encode images, drop VAE -> load transformer ->
quantise -> attach adapter -> optimizer, resume -> loop -> export -> pictures.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from sd3tune import backends, out_of_memory
from sd3tune.config.files.prompts import Prompt
from sd3tune.data.run_folders import PICTURES
from sd3tune.encode.caches import Caches
from sd3tune.encode.everything import (
    PLAN_CHANGES,
    SET_ASIDE,
    downloaded,
    filled,
    make_output,
)
from sd3tune.encode.image_latents import fill_epoch
from sd3tune.errors import CheckpointError, Diverged
from sd3tune.filesystem import disk
from sd3tune.plan.memory import gib
from sd3tune.plan.resolve import Plan
from sd3tune.prepare import Prepared
from sd3tune.processes.world import World, join, replicated
from sd3tune.report.metrics import Metrics
from sd3tune.report.progress import Heartbeat, say, stage
from sd3tune.report.quiet import quiet_libraries
from sd3tune.train import determinism
from sd3tune.train.begin import begin, recipe_of
from sd3tune.train.evaluation import evaluate, fixed_batches
from sd3tune.train.guard import Guard
from sd3tune.train.lock import Claim, claimed
from sd3tune.train.loop import Chore, Interrupt, every, interruptible, loop
from sd3tune.train.losses import Recipe
from sd3tune.train.pictures import pictures
from sd3tune.train.results import LAST, Keeper, versions, write
from sd3tune.train.schedules import Schedule
from sd3tune.train.state import TrainState

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    step: int
    steps: int
    loss_before: float | None  # of the base model on the fixed evaluation batches
    loss_after: float | None  # None: stopped, and whoever stopped it may not wait
    adapter: Path | None
    pictures: tuple[Path, ...]
    output: Path
    signal: int | None = None  # stopped by it, after saving
    noise: int = 0  # digest of all noise drawn: equal for any number of processes, after any resume


def train(prepared: Prepared, prompts: Sequence[Prompt]) -> Outcome:
    """Raises Sd3tuneError for what the user can mend; otherwise leaves every file of the run."""
    output, main = prepared.plan.config.output_dir, prepared.plan.processes.main
    make_output(output)
    try:
        with (
            claimed(output, main=main) as claim,
            out_of_memory.explained(prepared.plan),
            determinism.explained(),
        ):
            if main:
                refuse_in_the_way(output)
            return stages(prepared, prompts, claim)
    finally:
        Heartbeat().end()


def stages(prepared: Prepared, prompts: Sequence[Prompt], claim: Claim) -> Outcome:
    quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(deterministic=plan.value("deterministic") == "on")
    device = torch.device(plan.device.torch_device)

    with join(plan.processes, device, plan.value("distributed_backend")) as world:
        caches = filled(prepared, prompts, device, vendor, world)
        plan = caches.prepared.plan
        state = begin(plan, world)
        recipe = recipe_of(plan)
        fixed = fixed_batches(caches, device)
        with interruptible() as interrupt:
            if state.loss_before is None:
                base = state.trained.keeps_base
                state.loss_before = evaluate(state.trained, fixed, recipe, adapter=not base)
            steps(state, caches, prompts, recipe, claim, interrupt, world)
            if interrupt.agree(world):
                return leave(state, plan, interrupt.signal or 0)
        after = versions(state)[0].during(partial(evaluate, state.trained, fixed, recipe))
        return finish(state, caches, prompts, world, after)


def finish(
    state: TrainState,
    caches: Caches,
    prompts: Sequence[Prompt],
    world: World,
    after: float,
) -> Outcome:
    """The result as files, and pictures of it."""
    plan = caches.prepared.plan
    output = plan.config.output_dir
    files = []
    for v in versions(state):
        files.append(v.during(partial(write, state, plan, output / v.folder, world)))
        say(f"{v.name:<8} {files[-1]}")
    made = pictures(state, caches, prompts, world)
    return Outcome(
        state.step,
        plan.steps,
        state.loss_before,
        after,
        files[0],
        tuple(made),
        output,
        noise=state.noise,
    )


def refuse_in_the_way(output: Path) -> None:
    """What could not be written after hours is refused before. Raises DiskError."""
    with disk.explained("write", output / METRICS):
        (output / METRICS).open("ab").close()
    for path in (output / SET_ASIDE, output / PLAN_CHANGES):
        if path.is_dir():
            raise disk.refusal("write", path, IsADirectoryError(errno.EISDIR, ""))
    for folder in (output / PICTURES, output / LAST):
        if folder.exists() and not folder.is_dir():
            raise disk.refusal("write in", folder, NotADirectoryError(errno.ENOTDIR, ""))


def steps(
    state: TrainState,
    caches: Caches,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    claim: Claim,
    interrupt: Interrupt,
    world: World,
) -> None:
    """The loop with its chores: checkpoints, and pictures on the way when asked for."""
    vendor = backends.module(caches.prepared.plan.facts.vendor)
    plan, schedule = caches.prepared.plan, caches.prepared.schedule
    config, device = plan.config, world.device
    keeper = Keeper(state, plan, world, state.step)
    pictured = Chore(
        lambda state: (
            every(config.validation_step_interval or 0)(state) and state.step < plan.steps
        ),
        lambda: pictures(state, caches, prompts, world),
    )
    loader = caches.loader(world, lambda epoch: fill_epoch(caches, epoch, device))
    with (
        saved_on_failure(keeper, claim),
        loader.batches(state.position) as batches,
        stage("train", plan.steps) as bar,
    ):
        bar.begin(state.step)
        loop(
            state,
            batches,
            recipe,
            total=plan.steps,
            accumulate=int(plan.value("gradient_accumulation_steps")),
            learning_rate=Schedule.of(plan),
            chores=[Chore(every(1), claim.renew), *keeper.chores(schedule), pictured],
            interrupt=interrupt,
            stage=bar,
            used=lambda: used(vendor, plan),
            called=state.model if config.fsdp_enable else replicated(state.model, world),
            world=world,
            guard=guard_of(caches.prepared),
            metrics=Metrics(config.output_dir / METRICS, state.step),
        )
    keeper()


@contextmanager
def saved_on_failure(keeper: Keeper, claim: Claim) -> Iterator[None]:
    """Saves the last finished step when something else than the training itself fails: a disk, an
    image, memory, or this program. Not what diverged, nor what is split over processes, where the
    others are not at the same step."""
    try:
        yield
    except (CheckpointError, Diverged):
        raise
    except Exception:
        if keeper.world.size == 1 and not keeper.state.updating:
            with suppress(Exception):  # the first failure is the one to report
                claim.renew()
                if (folder := keeper()) is not None:
                    say(f"saved    {folder}; the same command continues from there")
        raise


def guard_of(prepared: Prepared) -> Guard:
    config = prepared.plan.config
    paths = {s.id: s.path for s in prepared.samples}
    return Guard(config.loss_spike_action, config.loss_spike_factor, paths.__getitem__)


def leave(state: TrainState, plan: Plan, signal: int) -> Outcome:
    say(f"stopped by signal {signal} after step {state.step}; the same command continues")
    output = plan.config.output_dir
    return Outcome(
        state.step, plan.steps, state.loss_before, None, None, (), output, signal, state.noise
    )


def used(vendor: ModuleType, plan: Plan) -> str:
    amount = vendor.used_bytes(plan.device.index)
    return "" if amount is None else gib(amount)
