"""A run from plan to files: named stages in order, and nothing else.

prepare device -> encode captions, drop encoders -> encode images, drop VAE -> load transformer ->
quantise -> attach adapter -> optimizer, resume -> loop -> export -> pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sd3tune import backends, out_of_memory
from sd3tune.config.files.prompts import Prompt
from sd3tune.encode.caches import Caches
from sd3tune.encode.everything import downloaded, filled, make_output
from sd3tune.encode.image_latents import fill_epoch
from sd3tune.plan.plan import Plan
from sd3tune.prepare import Prepared
from sd3tune.processes.world import World, join, replicated
from sd3tune.report import metrics
from sd3tune.report.events import RunEnded
from sd3tune.report.progress import Heartbeat, say, stage, waiting
from sd3tune.report.quiet import quiet_libraries
from sd3tune.report.stream import Stream
from sd3tune.sample.pictures import PictureJob, draw_pictures
from sd3tune.train import determinism
from sd3tune.train.begin import begin
from sd3tune.train.conclusion import concluded
from sd3tune.train.evaluation import evaluate, fixed_batches
from sd3tune.train.guard import Guard
from sd3tune.train.interrupt import Interrupt, interruptible
from sd3tune.train.keeper import Keeper, saved_on_failure
from sd3tune.train.lock import Claim, claimed
from sd3tune.train.loop import Chore, Job, every, loop
from sd3tune.train.outcome import Outcome
from sd3tune.train.recipe import Recipe
from sd3tune.train.results import pictured, refuse_in_the_way, versions, write
from sd3tune.train.sinks import told
from sd3tune.train.state import TrainState
from sd3tune.train.step_log import StepLog


@dataclass(frozen=True)
class Run:
    """A run whose data is encoded and whose model is on its device."""

    state: TrainState
    caches: Caches
    prompts: Sequence[Prompt]
    recipe: Recipe
    world: World
    stream: Stream

    @property
    def plan(self) -> Plan:
        """The plan as it is after encoding, which may have found unusable files."""
        return self.caches.prepared.plan

    def draw_pictures(self) -> list[Path]:
        """Validation pictures of the present weights."""
        state, world = self.state, self.world
        job = PictureJob(self.plan, self.prompts, self.caches.embeds, world.device, world.main)
        drawn = pictured(state, self.plan.pictures.weights)
        return draw_pictures(job, state.model, drawn, state.step)


def train(prepared: Prepared, prompts: Sequence[Prompt]) -> Outcome:
    """Runs the training and writes all files of the run. Raises Sd3tuneError for errors that the
    user can mend."""
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
            return stages(prepared, prompts, claim)
    finally:
        Heartbeat().end()


def stages(prepared: Prepared, prompts: Sequence[Prompt], claim: Claim) -> Outcome:
    """The stages of a run in their order."""
    with waiting("importing diffusers and transformers"):
        quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(
        deterministic=plan.hardware.deterministic.value,
        hidden_kernels=plan.attention.hidden_kernels.value,
    )
    device = torch.device(plan.hardware.device.torch_device)
    with join(plan.processes, device, plan.parallel.backend.value) as world:
        caches = filled(prepared, prompts, device, vendor, world)
        with waiting("preparing the model"):
            state = begin(caches.prepared.plan, world)
        fixed, recipe = fixed_batches(caches, device), Recipe.of(caches.prepared.plan)
        with interruptible() as interrupt, told(caches.prepared.plan, world, state) as stream:
            run = Run(state, caches, prompts, recipe, world, stream)
            if state.loss_before is None:
                before = not state.trained.keeps_base
                state.loss_before = evaluate(state.trained, fixed, run.recipe, adapter=before)
            steps(run, claim, interrupt)
            if interrupt.agree(world):
                return stopped(run, interrupt.signal or 0)
            with versions(state)[0].values():
                after = evaluate(state.trained, fixed, run.recipe)
            return finish(run, after)


def steps(run: Run, claim: Claim, interrupt: Interrupt) -> None:
    """The loop with its chores: checkpoints, and validation pictures during training when
    requested."""
    state, plan, world = run.state, run.plan, run.world
    keeper = Keeper(state, plan, world, state.step)
    loader = run.caches.loader(world, lambda epoch: fill_epoch(run.caches, epoch, world.device))
    pictures_due = every(plan.pictures.every_steps)
    chores = [
        Chore(every(1), claim.renew),
        *keeper.chores(run.caches.prepared.schedule),
        Chore(lambda s: pictures_due(s) and s.step < plan.steps, run.draw_pictures),
    ]
    job = Job(
        recipe=run.recipe,
        guard=Guard.of(plan, run.caches.prepared.samples),
        rate=plan.optimizer.rate,
        steps=plan.steps,
        accumulation=plan.data.accumulation.value,
        world=world,
        wrapped=None if plan.parallel.sharded else replicated(state.model, world),
    )
    with (
        saved_on_failure(keeper, claim),
        loader.batches(state.position) as batches,
        stage("train", plan.steps) as bar,
    ):
        bar.begin(state.step)
        rows = metrics.Metrics(plan.output_dir / metrics.FILE, state.step)
        log = StepLog(plan, rows, bar, world, run.stream)
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
    run.stream.emit(RunEnded(state.step, "finished", results=tuple(files)))
    outcome = Outcome(
        step=state.step,
        steps=plan.steps,
        loss_before=state.loss_before,
        loss_after=loss_after,
        adapter=files[0],
        pictures=tuple(run.draw_pictures()),
        output=plan.output_dir,
        noise=state.noise,
    )
    return concluded(plan, run.stream, outcome)


def stopped(run: Run, signal: int) -> Outcome:
    """After a signal, when the last step is saved."""
    state, plan = run.state, run.plan
    say(f"stopped by signal {signal} after step {state.step}; the same command continues")
    run.stream.emit(RunEnded(state.step, "stopped", f"signal {signal}"))
    return Outcome(
        state.step, plan.steps, state.loss_before, None, None, (), plan.output_dir, signal,
        state.noise,
    )  # fmt: skip
