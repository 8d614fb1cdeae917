"""Validation pictures of a run: which are drawn, with which weights, and by which process."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from sd3tune.backends.kernels import torch_devices
from sd3tune.config.files.prompts import Prompt
from sd3tune.data import run_folders
from sd3tune.data.seeds import seed_of
from sd3tune.formats.picture_recipe import AdapterUsed
from sd3tune.load import variant
from sd3tune.out_of_memory import during
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import World, failing_together
from sd3tune.report.progress import stage, waiting
from sd3tune.sample.picture_metadata import recipe
from sd3tune.sample.pipeline import Embeds, OnStep, Picture, Sampling, draw_picture, pipeline
from sd3tune.sd3 import weights
from sd3tune.sd3.attention import sampling_kernel

BASE, LAST = "base", "last"  # versions of the weights: before any training, after the last step
EmbedsOf = Callable[[str], Embeds]  # a prompt -> (tokens, width) and (pooled width,)
Values = Callable[[], AbstractContextManager[None]]
Scaled = Callable[[float], AbstractContextManager[None]]  # the adapter at that strength
Receive = Callable[[Picture, Any], None]  # what was asked, and the PIL image


@dataclass(frozen=True)
class PictureJob:
    """What all pictures of a run have in common."""

    plan: Plan
    prompts: Sequence[Prompt]
    embeds_of: EmbedsOf
    world: World
    scaled: Scaled = lambda strength: nullcontext()
    stopped: Callable[[], bool] = lambda: False  # asked before each picture, in every process
    watching: Callable[[Picture], OnStep | None] = lambda picture: None  # a picture on the way
    weights_only: tuple[str, ...] | None = None  # as product_errors.weights_only_layers has them


def draw_pictures(
    job: PictureJob, model: Any, wanted: Sequence[Picture], values: Values, receive: Receive
) -> None:
    """Hands each picture to `receive`, in process 0. values: has the weights in place as long as it
    is open.

    Every process must call this. Where weights are split over the processes, all draw each picture;
    otherwise they share the pictures, or the first one draws all. What fails in one process raises
    in all of them; what fails in the middle of split weights ends the run.
    """
    plan, world = job.plan, job.world
    with failing_together(world), waiting("loading the VAE"):
        vae = weights.vae(plan.model.source, plan.precision.vae.value, **variant(plan))
        how = sampling(job)
        pipe = pipeline(model, vae.to(world.device), how.shift, how.sampler)
    draw = partial(_draw, job, pipe, how)
    with (
        during("drawing pictures"),
        values(),
        stage("draw pictures", len(wanted)) as bar,
        drawing(model, plan.attention.sampling.value),
    ):
        for group in rounds(wanted, world.size if plan.pictures.parallel else 1):
            if job.stopped():
                return
            with failing_together(world):
                own = mine(group, world, sharded=plan.parallel.sharded)
                image = None if own is None else draw(own)
            shared = world.gathered((image if world.main or len(group) > 1 else None,))
            for picture, drawn in zip(group, shared, strict=False):
                with failing_together(world):
                    if world.main:
                        receive(picture, drawn)
                bar.advance()


def _draw(job: PictureJob, pipe: Any, how: Sampling, picture: Picture) -> Any:
    """One PIL image, with the adapter at the strength of its prompt."""
    with job.scaled(strength_of(job, picture)):
        return draw_picture(pipe, picture, how, job.watching(picture))


def rounds(wanted: Sequence[Picture], together: int) -> Iterator[Sequence[Picture]]:
    """The pictures in groups that are drawn at the same time."""
    for start in range(0, len(wanted), together):
        yield wanted[start : start + together]


def mine(group: Sequence[Picture], world: World, *, sharded: bool) -> Picture | None:
    """The picture of a group that this process draws."""
    if sharded:
        return group[0]
    rank = world.processes.rank
    return group[rank] if rank < len(group) else None


@contextmanager
def drawing(model: Any, kernel: str) -> Iterator[None]:
    """No gradients and no dropout, with the attention kernel of passes without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), sampling_kernel(model, kernel):
            yield
    finally:
        model.train(training)


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """The generators of Python, NumPy and torch go on afterwards as if the block had not been."""
    python, arrays = random.getstate(), np.random.get_state()
    devices = torch_devices.device_ids(device) or []
    try:
        with torch.random.fork_rng(devices, device_type=device.type):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def pictures(job: PictureJob, step: int) -> list[Picture]:
    """The pictures to draw after that step: every prompt in every size, as many as the settings ask
    for. Each has its own seed."""
    plan, wanted = job.plan.pictures, []
    seed = seed_of(plan.seed, step, "pictures") % 2**32 if plan.randomize else plan.seed
    for prompt in job.prompts:
        embeds = batched(job.embeds_of(prompt.text))
        for size in plan.sizes:
            for index in range(plan.per_prompt):
                name, text = prompt.shortname, prompt.text
                wanted.append(Picture(name, text, embeds, size, index, seed + index))
    return wanted


def strength_of(job: PictureJob, picture: Picture) -> float:
    """The strength of the adapter in a picture: its prompt's own, or that of the run."""
    strengths = {p.shortname: p.strength for p in job.prompts}
    own = strengths.get(picture.shortname)
    return job.plan.pictures.strength if own is None else own


def sampling(job: PictureJob) -> Sampling:
    """How the plan has them drawn."""
    dtype, drawn = job.plan.precision.autocast.value, job.plan.pictures
    return Sampling(
        steps=drawn.sampling_steps,
        guidance=drawn.guidance,
        shift=drawn.shift,
        skip=drawn.skip,
        negative_prompt=drawn.negative_prompt,
        negative=batched(job.embeds_of(drawn.negative_prompt)),
        autocast=None if dtype is None else weights.DTYPES[dtype],
        sampler=drawn.sampler,
    )


def batched(embeds: Embeds) -> Embeds:
    """(tokens, width) and (pooled width,) as float32 batches of one."""
    return embeds[0].float()[None], embeds[1].float()[None]


def name_of(picture: Picture, plan: Plan) -> str:
    """prompt_0_1024x1024.png"""
    how = plan.pictures
    return run_folders.picture_name(picture.shortname, picture.index, picture.size, how.format)


def texts(
    job: PictureJob, picture: Picture, step: int, version: str, adapter_sha256: str | None = None
) -> dict[str, str]:
    """What a picture says about itself, by key. step: of training. version: `base`, `last` or `ema`
    weights. adapter_sha256: as Trained.weights_sha256 has it."""
    plan, how = job.plan, sampling(job)
    base, title = plan.result.base, None
    adapters: list[AdapterUsed] = []
    if version != BASE:
        title = plan.result.title
        strength = strength_of(job, picture)
        adapters = [AdapterUsed(name=title, strength=strength, weights_sha256=adapter_sha256)]
    return recipe(
        picture, how, plan, base=base, title=title, adapters=adapters, step=step, version=version,
        weights_only=job.weights_only,
    ).texts()  # fmt: skip
