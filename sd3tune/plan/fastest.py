"""Settings that are left open and do not change what is learned: the fastest of them that fit.

A lever is one row of LEVERS: which candidates a run has, and what each does to the load. Memory and
time follow from the load (plan/memory.py, plan/step_work.py). All combinations are tried. Choices
that change numbers are not made here: batch size and quantisation are decided before, with every
lever at its smallest, so that weights are quantised only where nothing else makes room.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.plan.duration import clock, step_seconds
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.plan.modulation_plan import ROOMY, may_leave
from sd3tune.sd3.variants import Model

# Of the memory that may be filled, by vendor: what a choice may need that trades memory for time.
# Estimates were compared with NVIDIA's allocator only.
SPACIOUS = {"cuda": ROOMY}
SPACIOUS_ELSEWHERE = 0.75
# Rates of a device of which nothing is known: only the order of candidates follows from them.
SOME_SPEED = Speed(100e12, 40e12, 1e12, 15e-6, 20e9, 1.0, "assumed")


@dataclass(frozen=True)
class Candidate:
    """One value of a lever. words: as a reason names it."""

    words: str
    effect: Callable[[Load], Load]


@dataclass(frozen=True)
class Lever:
    """A setting with the candidates of a run: one where the user chose, the preferred first where
    several take the same time."""

    setting: str
    candidates: Callable[[RunInputs], Sequence[Candidate]]


@dataclass(frozen=True)
class Option:
    """One combination of candidates, with what it needs and takes."""

    words: str
    load: Load
    need: int  # bytes
    seconds: float  # of a step


@dataclass(frozen=True)
class Fastest:
    """The choice, and why."""

    load: Load
    reason: str


def checkpointing(inputs: RunInputs) -> list[Candidate]:
    """Every n-th block for each n that makes a difference, or what the user set. A setting that
    only checkpointed blocks have asks for them."""
    config, layers = inputs.config, inputs.model.transformer.layers
    interval = config.gradient_checkpointing_interval
    asked = config.gradient_checkpointing
    if asked is None and needs_checkpointing(inputs):
        asked = True
    if asked is not None:
        return [_checkpointed(interval if asked else 0, layers)]
    counts = {-(-layers // n): n for n in range(layers, 0, -1)}  # the smallest n of each count
    return [_checkpointed(n, layers) for n in (0, *counts.values())]


def needs_checkpointing(inputs: RunInputs) -> bool:
    """The user set something that goes with checkpointed blocks."""
    c = inputs.config
    own_interval = c.source("gradient_checkpointing_interval").by == "user"
    return own_interval or c.gradient_checkpointing_backend == "unsloth" or c.blocks_to_swap > 0


def _checkpointed(interval: int, layers: int) -> Candidate:
    count = -(-layers // interval) if interval else 0
    words = {0: "nothing checkpointed", layers: "every block checkpointed"}
    return Candidate(
        words.get(count, f"{count} of {layers} blocks checkpointed"),
        lambda load: replace(load, interval=interval),
    )


def modulations(inputs: RunInputs) -> list[Candidate]:
    """The AdaLN weights on the device or, where they may leave it, in host memory."""
    stay = Candidate("", lambda load: replace(load, modulations_off=False))
    leave = Candidate("AdaLN weights in host memory", lambda x: replace(x, modulations_off=True))
    if not may_leave(inputs):
        return [stay]
    return [stay, leave] if inputs.config.modulations == "auto" else [leave]


LEVERS = (
    Lever("gradient_checkpointing", checkpointing),
    Lever("modulations", modulations),
)


def smallest(inputs: RunInputs, load: Load, levers: Sequence[Lever] = LEVERS) -> Load:
    """The load with every lever at the last candidate, which needs the least memory."""
    for lever in levers:
        load = lever.candidates(inputs)[-1].effect(load)
    return load


def fastest(inputs: RunInputs, load: Load, levers: Sequence[Lever] = LEVERS) -> Fastest:
    """The fastest combination that fits with memory to spare; where none has that much, the
    smallest one. load: of the run with its precision and batch."""
    known = speeds.speed(inputs.facts)
    choices = [lever.candidates(inputs) for lever in levers]
    options = list(_options(inputs, load, choices, known or SOME_SPEED))
    room = inputs.room_bytes
    if room is None:  # as every device can hold it, if any
        return Fastest(smallest(inputs, load, levers), "the device's memory is unknown")
    share = SPACIOUS.get(inputs.facts.vendor, SPACIOUS_ELSEWHERE)
    chosen = choose(options, int(share * room))
    if len(options) == 1:
        return Fastest(chosen.load, "")
    return Fastest(chosen.load, reason(chosen, options, room, timed=known is not None))


def choose(options: Sequence[Option], most: int) -> Option:
    """The fastest that needs at most so many bytes, or the smallest."""
    roomy = [o for o in options if o.need <= most]
    if roomy:
        return min(roomy, key=lambda o: o.seconds)
    return min(options, key=lambda o: (o.need, o.seconds))


def _options(
    inputs: RunInputs, load: Load, choices: Iterable[Sequence[Candidate]], speed: Speed
) -> Iterator[Option]:
    tokens, model = inputs.average_tokens, inputs.model
    for combination in product(*choices):
        changed = load
        for candidate in combination:
            changed = candidate.effect(changed)
        words = ", ".join(c.words for c in combination if c.words)
        yield Option(words, changed, need(model, changed),
                     step_seconds(model.transformer, changed, speed, tokens))  # fmt: skip


def need(model: Model, load: Load) -> int:
    """Bytes while training."""
    return estimate(model, load).training


def reason(chosen: Option, options: Sequence[Option], room: int, *, timed: bool) -> str:
    """What was chosen, and what the nearest alternative would take: a faster one that does not fit,
    or, where the fastest fits, a smaller one."""

    def seconds(option: Option) -> str:
        return f"{clock(option.seconds)} a step" if timed else "of unknown speed"

    head = f"{chosen.words}: {seconds(chosen)}, {gib(chosen.need)} of {gib(room)}"
    faster = [o for o in options if o.seconds < chosen.seconds]
    if faster:
        other = max(faster, key=lambda o: o.seconds)
        best = min(faster, key=lambda o: o.seconds)
        parts = [f"{o.words} would be {seconds(o)} but need {gib(o.need)}" for o in (other, best)]
        return "; ".join([head, *dict.fromkeys(parts)])
    smaller = [o for o in options if o.need < chosen.need]
    if not smaller:
        return head
    other = min(smaller, key=lambda o: (o.need, o.seconds))
    return f"{head}; {other.words} would be {seconds(other)} and need {gib(other.need)}"
