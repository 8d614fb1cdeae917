"""Products that a run would make too large for its device: refused with the number that fits.

Attention multiplies every token with every other, for every head and image at once; the backward
pass of a linear sums over all tokens of a batch. Where a device has no limit nothing is checked.
"""

from dataclasses import dataclass

from sd3tune.backends.decide import limits
from sd3tune.backends.observe.facts import Facts
from sd3tune.errors import PlanError
from sd3tune.plan.inputs import RunInputs
from sd3tune.sd3.variants import CLIP_TOKENS, VAE_SCALE, Model, tokens

UNLIMITED = 2**31
OR_SLICED = "; or leave attention_mechanism out"  # sliced attention is chosen then
STEP = 64  # pixels: sides of every SD3 model are multiples of it


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch a device computes rightly, and why not more."""

    most: int = UNLIMITED
    why: str = ""


def training(facts: Facts, model: Model, image: int, text: int, attention: str) -> LargestBatch:
    """The largest batch for training on images with so many tokens and captions of so many T5
    tokens. A slice of the scores is small, whatever the batch."""
    one = 0 if attention == "sliced" else model.transformer.scores(image + CLIP_TOKENS + text)
    return _most(facts, one, image, f"{one:,} attention scores")


def encoding(facts: Facts, width: int, height: int) -> LargestBatch:
    """The VAE's one attention, of one head over the latent's pixels. Its sum is over one image."""
    one = (width // VAE_SCALE) * (height // VAE_SCALE)
    largest = _most(facts, one**2, 0, f"{one**2:,} attention scores of the VAE")
    limit = limits.terms(facts)
    if limit is not None and one > limit.most:
        return LargestBatch(0, f"the VAE sums {one:,} terms, and {limit.why}")
    return largest


def _most(facts: Facts, values: int, terms: int, what: str) -> LargestBatch:
    largest = LargestBatch()
    if (limit := limits.values(facts)) is not None and values:
        largest = LargestBatch(limit.most // values, f"an image makes {what}, and {limit.why}")
    if (limit := limits.terms(facts)) is not None and terms:
        fits = limit.most // terms
        if fits < largest.most:
            largest = LargestBatch(fits, f"gradients sum {terms:,} terms an image, and {limit.why}")
    return largest


def refuse(inputs: RunInputs, attention: str) -> None:
    """Raises PlanError for sizes that are set and too large with this attention."""
    if (refusal := refusal_of(inputs, attention)) is not None:
        raise refusal


def refusal_of(inputs: RunInputs, attention: str) -> PlanError | None:
    """What `refuse` raises; None where every size that is set is computed rightly."""
    return (
        _refused_training(inputs, attention)
        or _refused_encoding(inputs, attention)
        or _refused_pictures(inputs, attention)
    )


def _refused_training(inputs: RunInputs, attention: str) -> PlanError | None:
    facts, model, text = inputs.facts, inputs.model, inputs.config.tokenizer_max_length
    (width, height), name = inputs.largest_size, facts.weakest.name
    image = tokens(width, height)
    train = training(facts, model, image, text, attention)
    slices = training(facts, model, image, text, "sliced")
    if train.most < 1:
        hint = _smaller(inputs, attention) + (OR_SLICED if slices.most else "")
        return PlanError(f"images of {width}x{height} on {name}: {train.why}", hint=hint)
    for setting, size in _batches_set(inputs).items():
        if size > train.most:
            return PlanError(
                f"`{setting}={size}` on {name}: {train.why}",
                hint=f"set train_batch_size={train.most} or less, and gradient_accumulation_steps="
                f"{-(-size // train.most)} for steps over as many images"
                + (OR_SLICED if slices.most >= size else ""),
            )
    return None


def _batches_set(inputs: RunInputs) -> dict[str, int]:
    """Setting -> images per forward pass, where the user set it."""
    sizes = {"train_batch_size": inputs.config.train_batch_size}
    sizes |= {f"dataset `{d.id}`: train_batch_size": d.train_batch_size for d in inputs.datasets}
    return {setting: size for setting, size in sizes.items() if size is not None}


def _refused_encoding(inputs: RunInputs, attention: str) -> PlanError | None:
    facts, (width, height) = inputs.facts, inputs.largest_size
    encode = min((encoding(facts, *size) for size in inputs.sizes), key=lambda b: b.most)
    if encode.most < 1:
        problem = f"images of {width}x{height} on {facts.weakest.name}: {encode.why}"
        return PlanError(problem, hint=_smaller(inputs, attention))
    # Datasets have batch sizes of their own; without any dataset the configuration's counts.
    wanted = {f"dataset `{d.id}`: ": d.vae_batch_size for d in inputs.datasets}
    for dataset, size in (wanted or {"": inputs.config.vae_batch_size}).items():
        if size > encode.most:
            return PlanError(
                f"`{dataset}vae_batch_size={size}` on {facts.weakest.name}: {encode.why}",
                hint=f"set vae_batch_size={encode.most} or less",
            )
    return None


def _refused_pictures(inputs: RunInputs, attention: str) -> PlanError | None:
    """Guidance puts two images into a batch, and the VAE decodes one."""
    config, facts = inputs.config, inputs.facts
    together = 2 if config.validation_guidance > 1 else 1
    for size in config.validation_resolution:
        drawn, decoded = _drawn(inputs, size, attention), encoding(facts, *size)
        if min(drawn.most // together, decoded.most) > 0:
            continue
        two = f", two at a time with validation_guidance={config.validation_guidance:g},"
        setting = f"`validation_resolution`: {size[0]}x{size[1]}" + (two if together > 1 else "")
        hint = _smaller(inputs, attention, together)
        if decoded.most < 1:
            setting, drawn = setting.removesuffix(two), decoded
        elif _drawn(inputs, size, "sliced").most >= together:
            hint += OR_SLICED
        return PlanError(f"{setting} on {facts.weakest.name}: {drawn.why}", hint=hint)
    return None


def _drawn(inputs: RunInputs, size: tuple[int, int], attention: str) -> LargestBatch:
    text = inputs.config.tokenizer_max_length
    return training(inputs.facts, inputs.model, tokens(*size), text, attention)


def _smaller(inputs: RunInputs, attention: str, together: int = 1) -> str:
    """The longest side of a square that is computed rightly, `together` images at a time."""

    def most(side: int) -> int:
        fits = _drawn(inputs, (side, side), attention).most // together
        return min(fits, encoding(inputs.facts, side, side).most)

    side = STEP
    while most(side + STEP) > 0:
        side += STEP
    return f"lower the resolution: {side}x{side} is right"
