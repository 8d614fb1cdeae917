"""The loss of every image that is trained on, with fixed noise: which images are hard, and which do
not fit the others. Latents and captions come from the caches; nothing is trained.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sd3tune import load, offload
from sd3tune.data.discover import Sample
from sd3tune.encode.caches import BLANK, Caches
from sd3tune.encode.upkeep import encoded
from sd3tune.errors import ConfigError
from sd3tune.formats import finished_run
from sd3tune.prepare import Prepared
from sd3tune.report.progress import stage, waiting
from sd3tune.sd3 import attention
from sd3tune.train.begin import attach
from sd3tune.train.evaluation import LEVELS
from sd3tune.train.predicting import evaluating
from sd3tune.train.recipe import Recipe
from sd3tune.train.stable_loss import fixed_batch, losses_at, mean

FEWEST = 8  # images, from which on one can stand out
FAR = 3.5  # deviations from the median; Iglewicz and Hoaglin (1993) call more an outlier


@dataclass(frozen=True)
class ImageLoss:
    """One image. gain: how much lower its loss is with its caption than with the blank one."""

    sample: Sample
    loss: float  # mean over the levels
    by_level: tuple[float, ...]  # one for each of LEVELS
    gain: float
    suspicions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageLosses:
    """Every image, the suspicious ones first, then those with the highest loss."""

    result: Path | None  # None: the base model
    images: tuple[ImageLoss, ...]


def overrides(output: Path, file: str, *, full: bool) -> tuple[Path | None, tuple[str, ...]]:
    """The result in the folder of a run, and the settings under which a plan begins with it. None
    and no settings where the folder has no result: the base model is measured then. file: the name
    of an adapter. full: whether the run trains all weights. Raises ConfigError."""
    if not output.is_dir():
        raise ConfigError(
            f"`--losses {output}`: there is no such folder", hint="name the output_dir of a run"
        )
    path = output / (finished_run.MODEL if full else file)
    if not path.is_file():
        return None, ()
    path = path.absolute()
    if full:
        return path, (f"pretrained_transformer_model_name_or_path={path.parents[1]}",
                      "pretrained_transformer_subfolder=transformer")  # fmt: skip
    return path, (f"init_lora={path}", "lora_init_type=default")


def image_losses(prepared: Prepared, result: Path | None) -> ImageLosses:
    """Measures every image of a plan that begins with the result. Encodes what no cache holds.
    Raises Sd3tuneError."""
    caches = encoded(prepared, [])
    measured = measure(caches)
    return ImageLosses(result, tuple(sorted(suspected(measured), key=_rank)))


def measure(caches: Caches) -> list[ImageLoss]:
    """The images in the order of discovery, each one alone in its passes."""
    prepared, plan = caches.prepared, caches.prepared.plan
    device = torch.device(plan.hardware.device.torch_device)
    with waiting("preparing the model"):
        model = load.transformer(plan, device)
        kernels = plan.attention
        attention.use_processors(model, kernels.inputs.value, kernels.training.value)
        trained = attach(model, plan)
        offload.move_to_device(model, plan, device)
    recipe, images = Recipe.of(plan), []
    samples = list({(s.dataset, s.name): s for s in prepared.samples}.values())
    with evaluating(trained), stage("measure images", len(samples)) as bar:
        for s in samples:
            own, blank = (
                tuple(losses_at(trained, batch.each(lambda t: t.to(device)), recipe, LEVELS))
                for batch in (fixed_batch(caches, s), fixed_batch(caches, s, BLANK))
            )
            images.append(ImageLoss(s, mean(own), own, mean(blank) - mean(own)))
            bar.advance()
    return images


def suspected(images: Sequence[ImageLoss]) -> list[ImageLoss]:
    """The images with what does not fit the others. Of fewer than FEWEST, nothing can be said."""
    if len(images) < FEWEST:
        return list(images)
    losses = deviations([i.loss for i in images])
    gains = deviations([i.gain for i in images])
    return [
        ImageLoss(i.sample, i.loss, i.by_level, i.gain, _suspicions(loss, gain))
        for i, loss, gain in zip(images, losses, gains, strict=True)
    ]


def _suspicions(loss: float, gain: float) -> tuple[str, ...]:
    named = (
        (loss > FAR, "loss far above the others: damaged, or of another kind?"),
        (loss < -FAR, "loss far below the others: empty or plain?"),
        (gain < -FAR, "the caption helps far less than elsewhere: is it another image's?"),
    )
    return tuple(sentence for is_so, sentence in named if is_so)


def deviations(values: Sequence[float]) -> list[float]:
    """How far each value is from the median, in standard deviations that outliers do not widen:
    1.4826 times the median distance from the median. 0 where all are equal."""
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(v - middle) for v in values)
    return [(v - middle) / spread if spread else 0.0 for v in values]


def _rank(image: ImageLoss) -> tuple[bool, float, str, str]:
    return not image.suspicions, -image.loss, image.sample.dataset, image.sample.name
