"""How long a run takes, by arithmetic: the products of a training step, and the rate that the data
sheet of the device gives.

Only linear layers and attention are counted. The share of the data sheet's rate that a step reaches
was measured on one H200 (LoRA of SD3.5 at full size); every other device is untested, so the answer
is a range. None where no rate is known, as for Macs and processors.
"""

from dataclasses import dataclass

from sd3tune.backends.decide import chips
from sd3tune.plan.plan import Plan
from sd3tune.sd3.linears import linears
from sd3tune.sd3.variants import CLIP_TOKENS, Transformer
from sd3tune.tables.schemes import SCHEMES

# Shares of the data sheet's rate, the lowest and the highest. An H200 reached 0.19 to 0.27 in bf16.
SLOWEST, FASTEST = 0.15, 0.4
# Seconds that unpacking quantised weights takes at most, per billion weights and batch. On the
# H200, SD3.5 large took about 0.2 s with 8 bits, and 0.65 to 0.7 s with 4 and 2 bits.
UNPACKING_8_BITS, UNPACKING_LESS = 0.03, 0.13
MULTIPLY_ADD = 2  # operations of one product and its sum
TEXT = ("add_", "to_add_out", "ff_context", "context_embedder")  # layers that see text tokens
ONE_VECTOR = ("norm", "time_text_embed")  # layers that see a vector of each image


@dataclass(frozen=True)
class Forward:
    """Operations of one image's way through the transformer."""

    linear: int
    attention: int


@dataclass(frozen=True)
class Duration:
    """Seconds, at the least and at the most."""

    shortest: float
    longest: float


def forward(shape: Transformer, image_tokens: float, text_tokens: int) -> Forward:
    """text_tokens: of T5; CLIP's come on top."""
    text = text_tokens + CLIP_TOKENS
    linear = 0.0
    for layer in linears(shape):
        name = layer.name.partition("transformer_blocks.")[2].partition(".")[2] or layer.name
        part = name.removeprefix("attn.")
        seen = 1.0 if part.startswith(ONE_VECTOR) else image_tokens
        seen = text if part.startswith(TEXT) else seen
        linear += MULTIPLY_ADD * layer.inputs * layer.outputs * seen
    pairs = shape.layers * (image_tokens + text) ** 2 + shape.dual_layers * image_tokens**2
    return Forward(int(linear), int(2 * MULTIPLY_ADD * pairs * shape.hidden))


def step_operations(plan: Plan, image_tokens: float) -> int:
    """Operations of one optimizer step on one device. image_tokens: of an image, on average.

    A frozen layer needs the gradient of its input only, a trained one that of its weights too; the
    backward pass of attention costs two forward passes. Checkpointed blocks are computed twice.
    """
    one = forward(plan.model.transformer, image_tokens, plan.captions.t5_tokens)
    linear = 2 if plan.trained.lora is not None or plan.trained.lycoris is not None else 3
    interval = plan.memory.load.interval
    again = (one.linear + one.attention) / interval if interval else 0
    image = linear * one.linear + 3 * one.attention + again
    return int(image * plan.batch_size * plan.data.accumulation.value)


def step_duration(plan: Plan, image_tokens: float) -> Duration | None:
    """Seconds of one optimizer step; None where the device's rate is unknown."""
    chip = chips.of_device(plan.facts.tightest.name)
    if chip is None or chip.half_flops is None:
        return None
    operations = step_operations(plan, image_tokens)
    batches = plan.data.accumulation.value
    return Duration(
        operations / (chip.half_flops * FASTEST),
        operations / (chip.half_flops * SLOWEST) + batches * unpacking_seconds(plan),
    )


def run_duration(plan: Plan, image_tokens: float) -> Duration | None:
    """Seconds of all steps of the run, without encoding and pictures."""
    step = step_duration(plan, image_tokens)
    if step is None:
        return None
    return Duration(step.shortest * plan.steps, step.longest * plan.steps)


def unpacking_seconds(plan: Plan) -> float:
    """Seconds that unpacking the frozen weights takes at most, for each batch."""
    stored = SCHEMES[plan.precision.transformer.value].stored_bytes
    if stored is None:
        return 0.0
    each = UNPACKING_8_BITS if stored >= 1 else UNPACKING_LESS
    return each * plan.model.transformer.parameters / 1e9


def spoken(duration: Duration) -> str:
    """For people: "40 to 80 min"."""
    if duration.longest < 1:
        return "less than 1 s"
    for unit, seconds in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if duration.longest >= 2 * seconds or unit == "s":
            low, high = duration.shortest / seconds, duration.longest / seconds
            return f"{_figure(low)} to {_figure(high)} {unit}"
    raise AssertionError


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
