"""A run from plan to files: named stages in order, and nothing else.

prepare device -> encode captions, drop encoders -> encode images, drop VAE -> load transformer ->
quantise -> attach adapter -> optimizer, resume -> loop -> export -> pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sd3tune import backends, out_of_memory
from sd3tune.config.files.prompts import Prompt
from sd3tune.encode.caches import Caches
from sd3tune.encode.everything import downloaded, filled, make_output
from sd3tune.encode.image_latents import fill_epoch
from sd3tune.load import transformer
from sd3tune.plan.arithmetic import process_switches
from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.processes.world import World, join, replicated
from sd3tune.report import metrics
from sd3tune.report.events import RunEnded
from sd3tune.report.progress import Heartbeat, say, stage, waiting
from sd3tune.report.quiet import quiet_libraries
from sd3tune.report.stream import Stream
from sd3tune.train import best, determinism
from sd3tune.train.ahead import ahead
from sd3tune.train.announcing import announced
from sd3tune.train.begin import LoadBase, begin
from sd3tune.train.conclusion import conclude
from sd3tune.train.evaluation import before_training, evaluate_after, fixed_images
from sd3tune.train.guard import Guard
from sd3tune.train.interrupt import Interrupt, interruptible
from sd3tune.train.keeper import Keeper, saved_on_failure
from sd3tune.train.lock import Claim, claimed
from sd3tune.train.loop import Chore, Job, every, loop
from sd3tune.train.outcome import Outcome
from sd3tune.train.product_check import certified
from sd3tune.train.recipe import Recipe
from sd3tune.train.results import refuse_in_the_way, versions, write
from sd3tune.train.scoring import scorers
from sd3tune.train.sinks import event_stream
from sd3tune.train.state import TrainState
from sd3tune.train.step_log import StepLog
from sd3tune.train.validation import Validations


@dataclass(frozen=True)
class Run:
    """A run whose data is encoded and whose model is on its device."""

    state: TrainState
    caches: Caches
    recipe: Recipe
    world: World
    stream: Stream
    validations: Validations

    @property
    def plan(self) -> Plan:
        """The plan as it is after encoding, which may have found unusable files."""
        return self.caches.prepared.plan


def train(prepared: Prepared, prompts: Sequence[Prompt], base: LoadBase = transformer) -> Outcome:
    """Runs the training and writes all files of the run. base: loads the base model. Raises
    Sd3tuneError for errors that the user can mend."""
    plan = prepared.plan
    make_output(plan.output_dir)
    try:
        with (
            claimed(plan.output_dir, main=plan.processes.main) as claim,
            out_of_memory.explained(plan),
            determinism.explained(),
        ):
            if plan.processes.main:
                refuse_in_the_way(plan.output_dir)
            return stages(prepared, prompts, claim, base)
    finally:
        Heartbeat().end()


def stages(prepared: Prepared, prompts: Sequence[Prompt], claim: Claim, base: LoadBase) -> Outcome:
    """The stages of a run in their order."""
    with waiting("importing diffusers and transformers"):
        quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(**process_switches(plan.hardware, plan.attention))
    device = torch.device(plan.hardware.device.torch_device)
    with join(plan.processes, device, plan.parallel.backend.value) as world:
        caches = filled(prepared, prompts, device, vendor, world)
        with waiting("preparing the model"):
            state = begin(caches.prepared.plan, world, base)
        fixed, recipe = fixed_images(caches, device), Recipe.of(caches.prepared.plan)
        with event_stream(caches.prepared, world, state) as stream:
            scored = scorers(plan, world, stream)
            drawing = Validations(state, caches, prompts, world, stream, scored)
            run = Run(state, caches, recipe, world, stream, drawing)
            with interruptible() as interrupt:
                first = certified(state, fixed, run.plan, world, recipe)
                steps(run, claim, interrupt, first + before_training(state, fixed, recipe))
                if interrupt.agree(world):
                    return stopped(run, interrupt.signal or 0)
            return finish(run, evaluate_after(state, fixed, recipe))


def steps(run: Run, claim: Claim, interrupt: Interrupt, first: Sequence[Chore]) -> None:
    """The loop with its chores: the first ones, checkpoints, and pictures on the way."""
    state, plan, world = run.state, run.plan, run.world
    keeper = Keeper(state, plan, world, state.step, stream=run.stream)
    drawing = ahead(plan.loss.levels, plan.seed, state, plan.batches_per_step)
    new_epoch = partial(fill_epoch, run.caches, device=world.device)
    loader = run.caches.loader(world, new_epoch, drawing)
    chores = [
        Chore(every(1), claim.renew),
        *first,
        *best.judging(keeper, run.caches, run.recipe, world, run.stream),
        *keeper.chores(run.caches.prepared.schedule),
        *run.validations.chores(run.caches.prepared.schedule),
    ]
    job = Job(
        recipe=run.recipe,
        guard=Guard.of(plan, run.caches.prepared.samples),
        rate=plan.optimizer.rate,
        steps=plan.steps,
        enough=best.enough(plan),
        accumulation=plan.data.accumulation.value,
        world=world,
        wrapped=None if plan.parallel.sharded else replicated(state.model, world),
    )
    run.validations.begin(lambda: interrupt.agree(world))
    with (
        saved_on_failure(keeper, claim),
        loader.batches(state.position) as batches,
        stage("train", plan.steps) as bar,
    ):
        bar.begin(state.step)
        rows = metrics.Metrics(plan.output_dir / metrics.FILE, state.step)
        log = StepLog(plan, rows, bar, world, run.stream)
        batches = announced(batches, state, run.recipe, job.accumulation)
        loop(state, batches, job, chores, interrupt, log)
    with waiting("saving the last checkpoint"):
        keeper.save()


def finish(run: Run, loss_after: float) -> Outcome:
    """Writes the result and draws its validation pictures."""
    state, plan = run.state, run.plan
    files = []
    for version in versions(state):
        with version.values(), waiting("writing the result"):
            files.append(write(state, plan, plan.output_dir / version.folder, run.world))
        say(f"{version.name:<8} {files[-1]}")
    pictures, sheet = run.validations.end()
    ending = best.ending(state, plan)
    outcome = Outcome(
        step=state.step,
        steps=plan.steps,
        loss_before=state.loss_before,
        loss_after=loss_after,
        adapter=files[0],
        pictures=pictures,
        sheet=sheet,
        output=plan.output_dir,
        noise=state.noise,
        ending=ending,
    )
    conclude(plan, run.stream, outcome)
    run.stream.emit(RunEnded(state.step, "finished", ending.early, tuple(files)))
    return outcome


def stopped(run: Run, signal: int) -> Outcome:
    """After a signal, when the last step is saved."""
    state, plan = run.state, run.plan
    say(f"stopped by signal {signal} after step {state.step}; the same command continues")
    run.stream.emit(RunEnded(state.step, "stopped", f"signal {signal}"))
    return Outcome(
        state.step, plan.steps, state.loss_before, None, None, (), plan.output_dir, signal,
        noise=state.noise,
    )  # fmt: skip
