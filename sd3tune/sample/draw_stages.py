"""From the plan of a drawing command to files: named stages in order, each model gone before the
next one comes.

encode prompts, drop encoders -> load transformer -> add adapters -> quantise -> measure 8-bit
products -> draw -> decode, write. The VAE stays beside the transformer where both fit, so that each
picture is written when it is drawn; otherwise all are decoded at the end. Whatever ends the
command, files are whole.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd3tune import backends, load, offload, quant
from sd3tune.backends.kernels.no_memory import is_out_of_memory
from sd3tune.drawing.drawing_sources import Sources
from sd3tune.errors import HardwareError
from sd3tune.filesystem import disk
from sd3tune.formats.picture_files import keep_drawn
from sd3tune.formats.picture_recipe import PictureRecipe
from sd3tune.plan.arithmetic import process_switches
from sd3tune.plan.drawing import DrawingPlan, memory_words
from sd3tune.quant.product_errors import weights_only_layers
from sd3tune.report.progress import Stage, say, stage, waiting
from sd3tune.report.quiet import quiet_libraries
from sd3tune.sample import adapted, drawn_products
from sd3tune.sample.adapted import Adapter
from sd3tune.sample.encoded import encoded
from sd3tune.sample.picture_metadata import recipe
from sd3tune.sample.pictures import drawing
from sd3tune.sample.pipeline import (
    Picture,
    Sampling,
    SamplingStep,
    decoded,
    draw_latents,
    pipeline,
)
from sd3tune.sd3 import attention, weights
from sd3tune.sd3.text import TextEncoders

LoadEncoders = Callable[[DrawingPlan, torch.device], TextEncoders]
Receive = Callable[["Wanted", Any, PictureRecipe], None]  # asked, PIL image, how it was drawn


@dataclass(frozen=True)
class Wanted:
    """One picture to draw. path: where it goes; None: it is handed over alone."""

    shortname: str
    prompt: str
    size: tuple[int, int]  # width, height in pixels
    seed: int
    index: int = 0
    path: Path | None = None


@dataclass(frozen=True)
class DrawingJob:
    """What the pictures of a command have in common. quality: of JPEG and WebP files. weights_only:
    layers of 8-bit products that multiply by their dequantised weight; None: they are measured."""

    plan: DrawingPlan
    sources: Sources
    adapters: Sequence[Adapter]
    quality: int = 90
    weights_only: tuple[str, ...] | None = None


def draw(
    job: DrawingJob, wanted: Sequence[Wanted], load_encoders: LoadEncoders, receive: Receive
) -> None:
    """Draws every picture, writes it where it has a path, and hands it over. load_encoders: puts
    the text encoders on their device, as the plan says. Raises Sd3tuneError."""
    with _explained(job.plan):
        _stages(job, wanted, load_encoders, receive)


def _stages(
    job: DrawingJob, wanted: Sequence[Wanted], load_encoders: LoadEncoders, receive: Receive
) -> None:
    with waiting("importing diffusers and transformers"):
        quiet_libraries()
    job = _downloaded(job)
    plan = job.plan
    vendor = backends.module(plan.facts.vendor)
    vendor.prepare(**process_switches(plan.hardware, plan.attention))
    device = torch.device(plan.hardware.torch_device.value)
    pictures, how = _encoded(plan, wanted, load_encoders, device)
    transformer = _transformer(job, device)
    drawn_products.certified(transformer, plan, pictures[wanted[0]], how, job.weights_only)
    job = replace(job, weights_only=weights_only_layers(transformer))
    if plan.memory.vae.value == "beside":
        vae = _vae(plan, device)
        for asked, latents in _drawn(job, transformer, wanted, pictures, how):
            with torch.no_grad():
                image = decoded(vae, latents)
            _finish(job, asked, image, pictures[asked], how, receive)
        return
    held: list[tuple[Wanted, Tensor]] = []
    interrupted = False
    try:
        for asked, latents in _drawn(job, transformer, wanted, pictures, how):
            held.append((asked, latents.cpu()))
    except KeyboardInterrupt:  # what is drawn is decoded and written
        interrupted = True
    with waiting("dropping the transformer"):
        del transformer
        _free()
    vae = _vae(plan, device)
    with stage("decode pictures", len(held)) as bar:
        for asked, latents in held:
            with torch.no_grad():
                image = decoded(vae, latents.to(device))
            _finish(job, asked, image, pictures[asked], how, receive)
            bar.advance()
    if interrupted:
        raise KeyboardInterrupt


def _downloaded(job: DrawingJob) -> DrawingJob:
    """The same with its model on this disk."""
    plan, source = job.plan, job.plan.model.source
    revision = {"revision": plan.files.revision} if plan.files.revision else {}
    with waiting(f"getting {source}", drawn=False):  # the hub draws its own bars on a terminal
        here = weights.local(source, **revision, **load.variant(plan))
    model = replace(plan.model, source=here)
    return replace(job, plan=replace(plan, model=model))


def _encoded(
    plan: DrawingPlan, wanted: Sequence[Wanted], load_encoders: LoadEncoders, device: torch.device
) -> tuple[dict[Wanted, Picture], Sampling]:
    """The pictures with their embeddings, and how they are drawn; the encoders are gone."""
    asked = plan.asked
    encoders = load_encoders(plan, device)
    embeds = encoded(encoders, plan, [asked.negative_prompt, *(w.prompt for w in wanted)])
    with waiting("dropping the text encoders"):
        del encoders
        _free()
    dtype = plan.precision.autocast.value
    how = Sampling(
        steps=asked.steps,
        guidance=asked.guidance,
        shift=asked.shift,
        skip=asked.skip,
        negative_prompt=asked.negative_prompt,
        negative=embeds[asked.negative_prompt],
        autocast=None if dtype is None else weights.DTYPES[dtype],
        sampler=asked.sampler,
    )
    pictures = {
        w: Picture(w.shortname, w.prompt, embeds[w.prompt], w.size, w.index, w.seed) for w in wanted
    }
    return pictures, how


def _transformer(job: DrawingJob, device: torch.device) -> Any:
    """On its device, with the adapters, as the plan says. Raises ModelError."""
    plan = job.plan
    if all(a.beside for a in job.adapters):
        model = load.transformer(plan, device)
    else:
        say(f"loading  transformer of {plan.model.name}")
        precision = plan.precision
        model = weights.transformer(plan.model.source, precision.base.value, **load.variant(plan))
        with waiting("adding the adapters to the weights"):
            adapted.merge(model, job.adapters)
        load.quantise(model, precision.transformer.value, quant.TRANSFORMER, plan, device)
    kernels = plan.attention
    attention.use_processors(model, kernels.inputs.value, kernels.training.value)
    layers = adapted.put_beside(model, job.adapters)
    changed = layers + sum(len(a.modules) for a in job.adapters if not a.beside)
    for adapter in job.adapters:
        say(f"adapter  {adapter.source.path} at strength {adapter.source.strength:g}")
    if job.adapters:
        say(f"adapted  {changed} layers")
    model.requires_grad_(False).eval()
    with waiting(f"moving the transformer to {device}"):
        offload.move_to_device(model, plan, device)
    return model


def _vae(plan: DrawingPlan, device: torch.device) -> Any:
    with waiting("loading the VAE"):
        vae = weights.vae(plan.model.source, plan.precision.vae.value, **load.variant(plan))
        return vae.to(device)


def _drawn(
    job: DrawingJob,
    transformer: Any,
    wanted: Sequence[Wanted],
    pictures: dict[Wanted, Picture],
    how: Sampling,
) -> Iterator[tuple[Wanted, Tensor]]:
    """Latents of one picture after the other."""
    pipe = pipeline(transformer, None, how.shift, how.sampler)
    for number, asked in enumerate(wanted, 1):
        name = f"picture {number} of {len(wanted)}, {asked.shortname}"
        with (
            stage(name, how.steps) as bar,
            drawing(transformer, job.plan.attention.sampling.value),
        ):
            latents = draw_latents(pipe, pictures[asked], how, partial(_advance, bar))
        yield asked, latents


def _advance(bar: Stage, step: SamplingStep) -> None:
    if bar.total != step.total:  # Heun takes nearly two for each
        bar.expect(step.total)
    bar.advance()


def _finish(
    job: DrawingJob, asked: Wanted, image: Any, picture: Picture, how: Sampling, receive: Receive
) -> None:
    sources = job.sources
    made = recipe(
        picture,
        how,
        job.plan,
        base=_base(sources.model.source),
        title=sources.title,
        adapters=[a.used for a in job.adapters],
        step=sources.step,
        version=sources.weights,
        weights_only=job.weights_only,
    )
    if asked.path is not None:
        with disk.explained("write", asked.path):
            made = keep_drawn(image, asked.path, made, job.quality)
    receive(asked, image, made)


def _base(source: str) -> str:
    """The id of a repository; of a path on this disk its last name: pictures are shared."""
    return Path(source).name if Path(source).exists() else source


def _free() -> None:
    """Memory of dropped models goes back to the device before the next one comes."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


@contextmanager
def _explained(plan: DrawingPlan) -> Iterator[None]:
    """Raises HardwareError in the place of any allocator's error."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise HardwareError(
            f"out of memory on {plan.hardware.device.name}; estimated were {memory_words(plan)}",
            hint="--quantise int8-quanto halves the weights; a smaller --size needs less; --on-cpu "
            "draws in host memory",
        ) from e
