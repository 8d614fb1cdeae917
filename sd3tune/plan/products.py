"""Products that a run would make too large for its device: refused with the number that fits.

Attention multiplies every token with every other, for every head and image at once; the backward
pass of a linear sums over all tokens of a batch. Where a device has no limit nothing is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sd3tune.backends.decide import limits
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.config.datasets.image_dataset import ImageDataset
from sd3tune.data.discover import Sample
from sd3tune.errors import PlanError
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE, Model, tokens

UNLIMITED = 2**31
OR_SLICED = "; or leave attention_mechanism out"  # sliced attention is chosen then
STEP = 64  # pixels: sides of every SD3 model are multiples of it


@dataclass(frozen=True)
class Batches:
    """The largest batch a device computes rightly, and why not more."""

    most: int = UNLIMITED
    why: str = ""


def training(facts: Facts, model: Model, image: int, text: int, attention: str) -> Batches:
    """Of images with so many tokens, with captions of so many T5 tokens. A slice of the scores is
    small, whatever the batch."""
    one = 0 if attention == "sliced" else model.transformer.scores(image + CLIP_TOKENS + text)
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
    if (limit := limits.values(facts)) is not None and values:
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
    attention: str,
) -> None:
    """Raises PlanError for sizes that are set and too large.

    datasets: their own batch sizes; without any, those of the configuration count.
    """
    sizes = {s.geometry.bucket for s in samples}
    width, height = max(sizes, key=lambda size: tokens(*size))
    largest, text = tokens(width, height), config.tokenizer_max_length
    train = training(facts, model, largest, text, attention)
    slices = training(facts, model, largest, text, "sliced")
    name = facts.weakest.name

    def most(side: int) -> int:
        one = training(facts, model, tokens(side, side), text, attention)
        return min(one.most, encoding(facts, side, side).most)

    if train.most < 1:
        hint = _smaller(most) + (OR_SLICED if slices.most else "")
        raise PlanError(f"images of {width}x{height} on {name}: {train.why}", hint=hint)
    asked = {"train_batch_size": config.train_batch_size or 1}
    asked |= {f"dataset `{d.id}`: train_batch_size": d.train_batch_size or 1 for d in datasets}
    for setting, size in asked.items():
        if size > train.most:
            raise PlanError(
                f"`{setting}={size}` on {name}: {train.why}",
                hint=f"set {train.most} or less, and gradient_accumulation_steps="
                f"{-(-size // train.most)} for steps over as many images"
                + (OR_SLICED if slices.most >= size else ""),
            )
    encode = min((encoding(facts, *size) for size in sizes), key=lambda b: b.most)
    if encode.most < 1:
        words = f"images of {width}x{height} on {name}: {encode.why}"
        raise PlanError(words, hint=_smaller(most))
    wanted = {f"dataset `{d.id}`: ": d.vae_batch_size for d in datasets}
    for who, size in (wanted or {"": config.vae_batch_size}).items():
        if size > encode.most:
            raise PlanError(
                f"`{who}vae_batch_size={size}` on {name}: {encode.why}",
                hint=f"set vae_batch_size={encode.most} or less",
            )
    _refuse_pictures(config, facts, model, attention)


def _refuse_pictures(config: Config, facts: Facts, model: Model, attention: str) -> None:
    """Guidance puts two images into a batch, and the VAE decodes one."""
    together = 2 if config.validation_guidance > 1 else 1
    text = config.tokenizer_max_length

    def drawn(width: int, height: int, kind: str = attention) -> Batches:
        return training(facts, model, tokens(width, height), text, kind)

    def most(side: int) -> int:
        return min(drawn(side, side).most // together, encoding(facts, side, side).most)

    for size in config.validation_resolution:
        found, decoded = drawn(*size), encoding(facts, *size)
        if min(found.most // together, decoded.most) > 0:
            continue
        two = f", two at a time with validation_guidance={config.validation_guidance:g},"
        where = f"`validation_resolution`: {size[0]}x{size[1]}" + (two if together > 1 else "")
        hint = _smaller(most)
        if decoded.most < 1:
            where, found = where.removesuffix(two), decoded
        elif drawn(*size, "sliced").most >= together:
            hint += OR_SLICED
        raise PlanError(f"{where} on {facts.weakest.name}: {found.why}", hint=hint)


def _smaller(most: Callable[[int], int]) -> str:
    """The longest side of a square that is computed rightly."""
    side = STEP
    while most(side + STEP) > 0:
        side += STEP
    return f"lower the resolution: {side}x{side} is right"
