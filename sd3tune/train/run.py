"""A run from plan to files: named stages in order, and nothing else.

prepare device -> encode captions, drop encoders -> encode images, drop VAE -> load transformer ->
quantise -> attach adapter -> optimizer, resume -> loop -> export -> pictures.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

from sd3tune import backends
from sd3tune.adapters import lora
from sd3tune.config.prompts import Prompt
from sd3tune.errors import ConfigError
from sd3tune.plan.describe import describe
from sd3tune.plan.memory import gib
from sd3tune.plan.prepare import Prepared
from sd3tune.plan.resolve import Plan
from sd3tune.report.progress import say, stage
from sd3tune.report.quiet import quiet_libraries
from sd3tune.sd3 import weights
from sd3tune.train import checkpoint, out_of_memory
from sd3tune.train.begin import begin, recipe_of
from sd3tune.train.caches import Caches, variant
from sd3tune.train.captions import fill_text
from sd3tune.train.evaluation import evaluate, fixed_batches
from sd3tune.train.images import fill_epoch, fill_images
from sd3tune.train.loop import Every, Interrupt, interruptible, loop
from sd3tune.train.optim import rate
from sd3tune.train.pictures import pictures
from sd3tune.train.state import TrainState
from sd3tune.train.step import Recipe

SET_ASIDE = "set_aside.json"  # in output_dir


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    step: int
    steps: int
    loss_before: float  # of the base model on the fixed evaluation batches
    loss_after: float | None  # None: stopped, and whoever stopped it may not wait
    adapter: Path | None
    pictures: tuple[Path, ...]
    output: Path
    signal: int | None = None  # stopped by it, after saving


def train(prepared: Prepared, prompts: Sequence[Prompt]) -> Outcome:
    """Raises Sd3tuneError for what the user can mend; otherwise leaves every file of the run."""
    with out_of_memory.explained(prepared.plan):
        return stages(prepared, prompts)


def stages(prepared: Prepared, prompts: Sequence[Prompt]) -> Outcome:
    make_output(prepared.plan.config.output_dir)
    quiet_libraries()
    prepared = downloaded(prepared)
    plan = prepared.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(deterministic=plan.value("deterministic") == "on")
    device = torch.device(plan.device.torch_device)

    caches = filled(prepared, prompts, device, vendor)
    plan = caches.prepared.plan
    state = begin(plan, device)
    recipe = recipe_of(plan)
    fixed = fixed_batches(caches, device)
    with interruptible() as interrupt:
        before = evaluate(state.model, fixed, recipe, adapter=False)
        steps(state, caches, prompts, recipe, vendor, interrupt)
        if interrupt.signal is not None:
            return leave(state, plan, before, interrupt.signal)
        after = evaluate(state.model, fixed, recipe)
    file = lora.export(state.model, plan.config.output_dir)
    say(f"adapter  {file}")
    made = pictures(state, caches, prompts, device)
    return Outcome(state.step, plan.steps, before, after, file, tuple(made), plan.config.output_dir)


def make_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        words = f"`output_dir={folder}` cannot be made: {e.strerror}"
        raise ConfigError(words, hint="choose a folder you may write to") from None


def filled(
    prepared: Prepared, prompts: Sequence[Prompt], device: torch.device, vendor: ModuleType
) -> Caches:
    """Everything encoded; files that turned out to be unusable are out of the plan, and in the
    report."""
    caches = Caches.of(prepared)
    wanted = [p.text for p in prompts] + [prepared.plan.config.validation_negative_prompt]
    fill_text(caches, wanted, device, lambda: vendor.used_bytes(prepared.plan.device.index))
    bad = fill_images(caches, device)
    caches = replace(caches, prepared=prepared.without(bad))
    report(caches.prepared, len(bad))
    return caches


def report(prepared: Prepared, late: int) -> None:
    """Every file that is not trained on, with its reason, as JSON in output_dir."""
    rows = [asdict(r) for found in prepared.discoveries.values() for r in found.rejected]
    path = prepared.plan.config.output_dir / SET_ASIDE
    path.unlink(missing_ok=True)
    if rows:
        path.write_text(json.dumps(rows, indent=1) + "\n")
    if late:
        say(f"warning: {late} files could not be decoded and are left out; {path} says why")


def downloaded(prepared: Prepared) -> Prepared:
    """The same plan with its model on this disk."""
    plan = prepared.plan
    model = replace(plan.model, source=weights.local(plan.model.source, **hub(plan)))
    return replace(prepared, plan=replace(plan, model=model))


def steps(
    state: TrainState,
    caches: Caches,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    vendor: ModuleType,
    interrupt: Interrupt,
) -> None:
    """The loop with its chores: checkpoints, and pictures on the way when asked for."""
    plan = caches.prepared.plan
    device = torch.device(plan.device.torch_device)
    config, accumulate = plan.config, int(plan.value("gradient_accumulation_steps"))
    chores = [Every(config.checkpoint_step_interval, lambda: keep(state, plan))]
    if config.validation_step_interval:
        chores.append(
            Every(
                config.validation_step_interval,
                lambda: on_the_way(state, caches, prompts, device),
            )
        )
    loader = caches.loader(device, lambda epoch: fill_epoch(caches, epoch, device))
    with (
        loader.batches(state.step * accumulate) as batches,
        stage("train", plan.steps) as bar,
    ):
        bar.begin(state.step)
        loop(
            state,
            batches,
            recipe,
            total=plan.steps,
            accumulate=accumulate,
            learning_rate=lambda step: rate(
                config.lr_scheduler,
                step,
                peak=config.learning_rate,
                end=config.lr_end,
                warmup=config.lr_warmup_steps,
                total=plan.steps,
            ),
            chores=chores,
            interrupt=interrupt,
            stage=bar,
            used=lambda: used(vendor, plan),
        )
    if state.step % config.checkpoint_step_interval:
        keep(state, plan)


def on_the_way(
    state: TrainState, caches: Caches, prompts: Sequence[Prompt], device: torch.device
) -> None:
    if state.step < caches.prepared.plan.steps:  # the end draws its own
        pictures(state, caches, prompts, device)


def keep(state: TrainState, plan: Plan) -> None:
    checkpoint.save(state, plan.config.output_dir, describe(plan))
    checkpoint.prune(plan.config.output_dir, plan.config.checkpoints_total_limit)


def leave(state: TrainState, plan: Plan, before: float, signal: int) -> Outcome:
    say(f"stopped by signal {signal} after step {state.step}; the same command continues")
    output = plan.config.output_dir
    return Outcome(state.step, plan.steps, before, None, None, (), output, signal)


def hub(plan: Plan) -> dict[str, str]:
    """Arguments of from_pretrained that say which files of a repository are meant."""
    revision = {"revision": plan.config.revision} if plan.config.revision else {}
    return revision | variant(plan)


def used(vendor: ModuleType, plan: Plan) -> str:
    amount = vendor.used_bytes(plan.device.index)
    return "" if amount is None else gib(amount)
