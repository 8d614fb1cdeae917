"""How long a step takes: its counted work over the rates of the device.

A device computes its kernels one after another, and the host starts them: the slower of the two
decides. The answer carries the error that must be expected (backends/decide/speeds.py).
docs/reference/step-time.md has predicted beside measured times.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.plan.block_keeping import recomputed_attention
from sd3tune.plan.memory import Load
from sd3tune.plan.step_work import Work, forward, linear_again, linear_passes, step_work
from sd3tune.sd3.variants import Transformer

if TYPE_CHECKING:
    from sd3tune.plan.plan import Plan

# Host seconds of a step beside its kernels: loader, clipping, log, schedule. From the demo's step.
STEP_SECONDS = 5e-3


@dataclass(frozen=True)
class Duration:
    """seconds: the expected time. error: relative; the time is within it, as far as is known."""

    seconds: float
    error: float

    @property
    def shortest(self) -> float:
        return self.seconds / (1 + self.error)

    @property
    def longest(self) -> float:
        return self.seconds * (1 + self.error)

    def times(self, factor: float) -> "Duration":
        return Duration(self.seconds * factor, self.error)


def work_seconds(work: Work, speed: Speed) -> float:
    """Seconds that the device and its host take. Transfers wait for nothing and nothing waits for
    them less: they are added, since overlap was never measured."""
    device = work.linear / speed.matmul + work.attention / speed.attention
    device += work.moved / speed.memory + work.updated / (speed.streaming or speed.memory)
    host = work.kernels * speed.launch_seconds + work.host_seconds
    busy = device + host if speed.in_turn else max(device, host)
    return busy + work.linked / speed.link


def step_seconds(
    shape: Transformer, load: Load, speed: Speed, image_tokens: float | None = None
) -> float:
    """Seconds of one optimizer step. image_tokens: as in `step_work`."""
    work = step_work(shape, load, image_tokens)
    return work_seconds(work, speed.multiplying(load.precision)) + STEP_SECONDS


def step_duration(plan: "Plan", image_tokens: float) -> Duration | None:
    """Of one optimizer step; None where the device's speed is unknown. image_tokens: of an image,
    on average."""
    speed = speeds.speed(plan.facts)
    if speed is None:
        return None
    speed = replace(speed, error=speed.multiplying(plan.memory.load.precision).error)
    seconds = step_seconds(plan.model.transformer, plan.memory.load, speed, image_tokens)
    return Duration(seconds, speed.error)


def run_duration(plan: "Plan", image_tokens: float) -> Duration | None:
    """Of all steps of the run, without encoding and pictures."""
    step = step_duration(plan, image_tokens)
    return None if step is None else step.times(plan.steps)


def step_operations(plan: "Plan", image_tokens: float) -> int:
    """Operations of one optimizer step on one device, as a profiler counts them: the backward pass
    of attention is two forward passes."""
    shape, load = plan.model.transformer, plan.memory.load
    one = forward(shape, image_tokens, load.text_tokens)
    image = one.linear * (linear_passes(load) + linear_again(shape, load, image_tokens))
    image += one.attention * (3 + recomputed_attention(shape, load))
    return int(image * load.images_of_step)


def clock(seconds: float) -> str:
    """For people, in two or three digits: "0.41 s", "42 s", "12 min", "3.4 h"."""
    if seconds < 100:
        digits = "2g" if seconds < 0.1 else "2f" if seconds < 10 else "0f"
        return f"{seconds:.{digits}} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:.0f} h"


UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


def spoken(duration: Duration) -> str:
    """For people: "40 to 80 min"."""
    if duration.longest < 1:
        return "less than 1 s"
    for unit, seconds in UNITS:
        if duration.longest >= 2 * seconds or unit == "s":
            low, high = duration.shortest / seconds, duration.longest / seconds
            return f"{_figure(low)} to {_figure(high)} {unit}"
    raise AssertionError


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"
