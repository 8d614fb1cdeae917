"""How long a whole run takes, stage by stage: captions, images, weights, steps, evaluation,
pictures, checkpoints. Of a first run, which finds no cache.

Steps are counted in plan/step_work.py. Other stages follow from operations and bytes with rates of
the same device; the disk's rate is assumed. None where the device's speed is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.data.discover import Sample
from sd3tune.plan.duration import Duration, step_duration, work_seconds
from sd3tune.plan.evaluation_count import EvaluationCount
from sd3tune.plan.memory import BYTES
from sd3tune.plan.plan import Plan
from sd3tune.plan.step_work import MULTIPLY_ADD, forward_work
from sd3tune.sd3.variants import VAE, tokens

# Operations per pixel of SD3's VAE, counted by FlopCounterMode at 1024 px; a smaller VAE takes its
# share of them.
ENCODE, DECODE = 4.66e6, 9.99e6
CONVOLUTIONS = 0.5  # of the rate of linear layers: a guess
DISK = 1.5e9  # bytes a second; a guess
START_SECONDS = 10.0  # imports, and looking at the devices
START_ON_CARD_SECONDS = 20.0  # beside that, the first use of a card: 25 to 29 s on an H200


@dataclass(frozen=True)
class RunTime:
    """stages: seconds by their names, in the order of the run. step: of one optimizer step."""

    step: Duration
    stages: Mapping[str, float]
    source: str  # of the rates

    @property
    def total(self) -> Duration:
        """Of the whole run."""
        return Duration(sum(self.stages.values()), self.step.error)

    def cost(self, price: float) -> float:
        """In the money of the price, which is of an hour."""
        return self.total.seconds / 3600 * price


@dataclass(frozen=True)
class Counted:
    """What the stages beside the steps consist of."""

    texts: int  # different captions and prompts, the blank one included
    samples: Sequence[Sample]  # whose latents are made
    evaluation: EvaluationCount
    pictures: int  # of the whole run
    checkpoint_bytes: int  # of all checkpoints that are written


def run_time(plan: Plan, counted: Counted) -> RunTime | None:
    """Of a plan; None where the device's speed is unknown."""
    speed, image_tokens = speeds.speed(plan.facts), average_tokens(counted.samples)
    step = step_duration(plan, image_tokens)
    if speed is None or step is None:
        return None
    start = START_SECONDS + (START_ON_CARD_SECONDS if plan.facts.accelerated else 0)
    one = _forward_seconds(plan, image_tokens, speed)
    stages = {
        "start": start,
        "captions": captions(plan, counted.texts, speed),
        "latents": latents(plan, counted.samples, speed),
        "weights": plan.model.transformer.parameters * BYTES[plan.precision.base.value] / DISK,
        "steps": step.seconds * plan.steps,
        "evaluation": one * evaluations(counted.evaluation),
        "pictures": counted.pictures * picture_seconds(plan, speed),
        "checkpoints": counted.checkpoint_bytes / DISK,
    }
    return RunTime(step, stages, speed.source)


def average_tokens(samples: Sequence[Sample]) -> float:
    """Image tokens of an image, on average over what an epoch draws."""
    drawn = sum(s.repeats + 1 for s in samples)
    return sum((s.repeats + 1) * tokens(*s.geometry.bucket) for s in samples) / max(drawn, 1)


def captions(plan: Plan, texts: int, speed: Speed) -> float:
    """Text encoders see as many tokens as T5 is given; CLIP's are fewer and shorter."""
    operations = MULTIPLY_ADD * sum(plan.model.text_encoders) * plan.captions.t5_tokens
    return texts * operations / speed.matmul


def latents(plan: Plan, samples: Sequence[Sample], speed: Speed) -> float:
    """Every image once through the VAE's encoder."""
    pixels = sum(s.geometry.bucket[0] * s.geometry.bucket[1] for s in samples)
    return pixels * ENCODE * plan.model.vae / VAE / (speed.matmul * CONVOLUTIONS)


def evaluations(count: EvaluationCount) -> int:
    """Passes of one image through the transformer."""
    during = 0 if count.during is None else count.during.passes * count.during.times
    return 2 * count.before_and_after + during


def picture_seconds(plan: Plan, speed: Speed) -> float:
    """One picture of the average size: its passes, with guidance two or three a step, and the
    VAE's decoder."""
    how = plan.pictures
    sizes = how.sizes or ((plan.data.square, plan.data.square),)
    passes = 1 + (how.guidance > 1) + (how.skip is not None)
    seconds = 0.0
    for width, height in sizes:
        one = _forward_seconds(plan, tokens(width, height), speed)
        decoding = width * height * DECODE * plan.model.vae / VAE
        seconds += how.sampling_steps * passes * one + decoding / (speed.matmul * CONVOLUTIONS)
    return seconds / len(sizes)


def _forward_seconds(plan: Plan, image_tokens: float, speed: Speed) -> float:
    """One image through the transformer without gradients."""
    load = plan.memory.load
    work = forward_work(plan.model.transformer, load, image_tokens)
    return work_seconds(work, speed.multiplying(load.precision))
