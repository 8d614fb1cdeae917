"""Validation pictures of a run: which are drawn, with which weights, and where they go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sd3tune.config.files.prompts import Prompt
from sd3tune.data import run_folders
from sd3tune.data.run_folders import PICTURES
from sd3tune.filesystem import disk
from sd3tune.formats.picture_files import keep
from sd3tune.load import variant
from sd3tune.out_of_memory import during
from sd3tune.plan.plan import Plan
from sd3tune.report.progress import stage, waiting
from sd3tune.sample.picture_metadata import recipe
from sd3tune.sample.pipeline import Embeds, Picture, Sampling, draw_picture, pipeline
from sd3tune.sd3 import weights
from sd3tune.sd3.attention import sampling_kernel

EmbedsOf = Callable[[str], Embeds]  # a prompt -> (tokens, width) and (pooled width,)
Versions = Sequence[tuple[str, Callable[[], AbstractContextManager[None]]]]  # folder, values


@dataclass(frozen=True)
class PictureJob:
    """What all pictures of a run have in common."""

    plan: Plan
    prompts: Sequence[Prompt]
    embeds_of: EmbedsOf
    device: torch.device
    main: bool  # this process writes; others draw along where weights are split over them


def draw_pictures(job: PictureJob, model: Any, versions: Versions, step: int) -> list[Path]:
    """One file per prompt, size and index, for each version of the weights; none when no prompt is
    configured. versions: below the folder of pictures, and the weights as long as they are in
    place."""
    plan, wanted = job.plan, pictures(job)
    if not wanted or not (job.main or plan.parallel.sharded):
        return []
    top, how = plan.output_dir / PICTURES, sampling(job)
    with waiting("loading the VAE"):
        vae = weights.vae(plan.model.source, plan.precision.vae.value, **variant(plan))
        pipe = pipeline(model, vae.to(job.device), how.shift, how.sampler)
    written = []
    for folder, values in versions:
        with (
            during("drawing pictures"),
            disk.explained("write pictures in", top),
            values(),
            stage("draw pictures", len(wanted)) as bar,
            drawing(model, plan.attention.sampling.value),
        ):
            for picture in wanted:
                drawn = draw_picture(pipe, picture, how)
                if job.main:
                    written.append(top / folder / file_name(picture, step))
                    keep(drawn, written[-1], texts(picture, how, plan, step, folder))
                bar.advance()
    return written


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


def pictures(job: PictureJob) -> list[Picture]:
    """The pictures to draw: every prompt in every size, as many as the settings ask for."""
    plan, wanted = job.plan.pictures, []
    for prompt in job.prompts:
        embeds = batched(job.embeds_of(prompt.text))
        for size in plan.sizes:
            for index in range(plan.per_prompt):
                seed = plan.seed + index
                wanted.append(Picture(prompt.shortname, prompt.text, embeds, size, index, seed))
    return wanted


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
    )


def batched(embeds: Embeds) -> Embeds:
    """(tokens, width) and (pooled width,) as float32 batches of one."""
    return embeds[0].float()[None], embeds[1].float()[None]


def file_name(picture: Picture, step: int) -> str:
    """step_500_prompt_0_1024x1024.png"""
    return run_folders.picture_name(picture.shortname, picture.index, picture.size, step)


def texts(picture: Picture, how: Sampling, plan: Plan, step: int, folder: str) -> dict[str, str]:
    """What a picture says about itself, by key. folder: of these weights below the folder of
    pictures."""
    base, title = plan.result.base, plan.result.title
    version = folder or "last"
    return recipe(picture, how, plan, base=base, title=title, step=step, version=version).texts()
