"""Validation pictures of a run: which to draw, with the VAE brought back for it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from sd3tune.config.files.prompts import Prompt
from sd3tune.data.run_folders import PICTURES
from sd3tune.encode.caches import Caches
from sd3tune.filesystem import disk
from sd3tune.load import variant
from sd3tune.out_of_memory import during
from sd3tune.plan.resolve import Plan
from sd3tune.processes.world import World
from sd3tune.report.progress import stage
from sd3tune.sample.pipeline import Sampling, Wish, draw
from sd3tune.sd3 import weights
from sd3tune.train.optim import averaged
from sd3tune.train.state import TrainState


def pictures(
    state: TrainState, caches: Caches, prompts: Sequence[Prompt], world: World
) -> list[Path]:
    """One file per prompt, size and index; none when no prompt is configured. Where weights are
    split over processes all of them draw, and the first one writes."""
    plan = caches.prepared.plan
    wanted = wishes(plan, caches, prompts)
    if not wanted or not (world.main or plan.config.fsdp_enable):
        return []
    place = plan.config.output_dir / PICTURES
    found = []
    vae = weights.vae(plan.model.source, plan.value("vae_dtype"), **variant(plan))
    vae.to(world.device)
    for folder, values in looks(state, plan.config.ema_validation):
        with (
            during("drawing pictures"),
            disk.explained("write pictures in", place),
            values(),
            stage("draw pictures", len(wanted)) as bar,
        ):
            found += draw(
                state.model,
                vae,
                wanted,
                sampling(plan, caches),
                place / folder if world.main else None,
                state.step,
                done=bar.advance,
            )
    return found


def looks(
    state: TrainState, asked: str
) -> list[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """Folder and values: the last ones, their average, or both (ema_validation)."""
    found: list[tuple[str, Callable[[], AbstractContextManager[None]]]] = []
    if state.ema is None or asked != "ema_only":
        found.append(("", partial(averaged, state.optimizer)))
    if state.ema is not None and asked != "none":
        found.append(("ema", state.ema.instead))
    return found


def wishes(plan: Plan, caches: Caches, prompts: Sequence[Prompt]) -> list[Wish]:
    found = []
    for prompt in prompts:
        embeds, pooled = (t.float() for t in caches.embeds(prompt.text))
        for size in plan.config.validation_resolution or (default_size(plan),):
            for index in range(plan.config.num_validation_images):
                found.append(Wish(prompt.shortname, embeds[None], pooled[None], size, index))
    return found


def default_size(plan: Plan) -> tuple[int, int]:
    """A square of the training resolution."""
    c = plan.config
    edge = c.resolution if c.resolution_type != "area" else (c.resolution * 1e6) ** 0.5
    side = max(64, round(edge / 16) * 16)
    return side, side


def sampling(plan: Plan, caches: Caches) -> Sampling:
    c = plan.config
    embeds, pooled = (t.float() for t in caches.embeds(c.validation_negative_prompt))
    autocast = plan.value("mixed_precision")
    return Sampling(
        steps=c.validation_num_inference_steps,
        guidance=c.validation_guidance,
        negative=(embeds[None], pooled[None]),
        seed=c.seed if c.validation_seed is None else c.validation_seed,
        attention=plan.value("attention_no_grad"),
        autocast=None if autocast == "no" else weights.DTYPES[autocast],
        shift=None if c.flow_schedule_auto_shift else c.flow_schedule_shift,
        skip_layers=c.validation_guidance_skip_layers,
        skip_scale=c.validation_guidance_skip_scale,
        skip_start=c.validation_guidance_skip_layers_start,
        skip_stop=c.validation_guidance_skip_layers_stop,
    )
