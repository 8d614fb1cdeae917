"""Products that a run would make too large for its device: refused with the number that fits.

Attention multiplies every token with every other, for every head and image at once; the backward
pass of a linear sums over all tokens of a batch. Where a device has no limit nothing is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sd3tune.backends import limits
from sd3tune.backends.facts import Facts
from sd3tune.config.dataset import ImageDataset
from sd3tune.config.settings import Config
from sd3tune.data.discover import Sample
from sd3tune.errors import PlanError
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE, Model, tokens

UNLIMITED = 2**31
STEP = 64  # pixels: sides of every SD3 model are multiples of it


@dataclass(frozen=True)
class Batches:
    """The largest batch a device computes rightly, and why not more."""

    most: int = UNLIMITED
    why: str = ""


def training(facts: Facts, model: Model, image: int, text: int) -> Batches:
    """Of images with so many tokens, with captions of so many T5 tokens."""
    one = model.transformer.scores(image + CLIP_TOKENS + text)
    return _most(facts, one, image, f"{one:,} attention scores")


def encoding(facts: Facts, width: int, height: int) -> Batches:
    """The VAE's one attention, of one head over the latent's pixels. Its sum is over one image."""
    one = (width // VAE_SCALE) * (height // VAE_SCALE)
    found = _most(facts, one**2, 0, f"{one**2:,} attention scores of the VAE")
    limit = limits.terms(facts)
    if limit is not None and one > limit.most:
        return Batches(0, f"the VAE sums {one:,} terms, and {limit.why}")
    return found


def _most(facts: Facts, values: int, terms: int, what: str) -> Batches:
    found = Batches()
    if (limit := limits.values(facts)) is not None:
        found = Batches(limit.most // values, f"an image makes {what}, and {limit.why}")
    if (limit := limits.terms(facts)) is not None and terms:
        fits = limit.most // terms
        if fits < found.most:
            found = Batches(fits, f"gradients sum {terms:,} terms an image, and {limit.why}")
    return found


def refuse(
    config: Config,
    facts: Facts,
    model: Model,
    samples: Sequence[Sample],
    datasets: Sequence[ImageDataset],
) -> Batches:
    """What training may take in one batch. Raises PlanError for sizes that are set and too large.

    datasets: their own batch sizes; without any, those of the configuration count.
    """
    sizes = {s.geometry.bucket for s in samples}
    width, height = max(sizes, key=lambda size: tokens(*size))
    largest, text = tokens(width, height), config.tokenizer_max_length
    train = training(facts, model, largest, text)
    name = facts.weakest.name
    if train.most < 1:
        square = _square(lambda side: training(facts, model, tokens(side, side), text).most)
        raise _too_large(f"images of {width}x{height}", name, train, square)
    asked = {"train_batch_size": config.train_batch_size or 1}
    asked |= {f"dataset `{d.id}`: train_batch_size": d.train_batch_size or 1 for d in datasets}
    for setting, size in asked.items():
        if size > train.most:
            raise PlanError(
                f"`{setting}={size}` on {name}: {train.why}",
                hint=f"set {train.most} or less, and gradient_accumulation_steps="
                f"{-(-size // train.most)} for steps over as many images",
            )
    encode = min((encoding(facts, *size) for size in sizes), key=lambda b: b.most)
    if encode.most < 1:
        square = _square(lambda side: encoding(facts, side, side).most)
        raise _too_large(f"images of {width}x{height}", name, encode, square)
    wanted = {f"dataset `{d.id}`: ": d.vae_batch_size for d in datasets}
    for who, size in (wanted or {"": config.vae_batch_size}).items():
        if size > encode.most:
            raise PlanError(
                f"`{who}vae_batch_size={size}` on {name}: {encode.why}",
                hint=f"set vae_batch_size={encode.most} or less",
            )
    _refuse_pictures(config, facts, model)
    return train


def _refuse_pictures(config: Config, facts: Facts, model: Model) -> None:
    """Guidance puts two images into a batch, and the VAE decodes one."""
    together = 2 if config.validation_guidance > 1 else 1
    text = config.tokenizer_max_length

    def most(width: int, height: int) -> Batches:
        drawn = training(facts, model, tokens(width, height), text)
        decoded = encoding(facts, width, height)
        return decoded if decoded.most < 1 else replace(drawn, most=drawn.most // together)

    for width, height in config.validation_resolution:
        if (found := most(width, height)).most < 1:
            where = f"`validation_resolution`: {width}x{height}"
            alone = training(facts, model, tokens(width, height), text).most > 0
            if together > 1 and alone and encoding(facts, width, height).most > 0:
                where += f", two at a time with validation_guidance={config.validation_guidance:g},"
            square = _square(lambda side: most(side, side).most)
            raise _too_large(where, facts.weakest.name, found, square)


def _square(most: Callable[[int], int]) -> int:
    """The longest side of a square that is computed rightly."""
    side = STEP
    while most(side + STEP) > 0:
        side += STEP
    return side


def _too_large(what: str, name: str, found: Batches, square: int) -> PlanError:
    hint = f"lower the resolution: {square}x{square} is right"
    return PlanError(f"{what} on {name}: {found.why}", hint=hint)
