"""Settings that are left open and do not change what is learned: the fastest of them that fit.

A lever is one row of LEVERS: the candidates that a run has for one setting, each as the load that
it makes. Memory and time follow from the load (plan/memory.py, plan/step_work.py). All combinations
are tried. Choices that change numbers are not made here: batch size and quantisation are decided
before, with every lever at its smallest, so that weights are quantised only where nothing else
makes room.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.decision import AUTO, Decision
from sd3tune.plan.block_keeping import Keep, mixed, of_load, summary
from sd3tune.plan.duration import clock, step_seconds
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.keep_choice import may_keep_everything, open_choices, settled
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.plan.modulation_plan import ROOMY, may_leave
from sd3tune.sd3.variants import Transformer

# Of the memory that may be filled, by vendor: what a choice may need that trades memory for time.
# Estimates were compared with NVIDIA's allocator only.
SPACIOUS = {"cuda": ROOMY}
SPACIOUS_ELSEWHERE = 0.75
# Rates of a device of which nothing is known: only the order of candidates follows from them.
SOME_SPEED = Speed(4e14, 1.5e14, 2e12, 1e-5, 2e10, 1.0, "assumed")

Fits = Callable[[Load], bool]


@dataclass(frozen=True)
class Lever:
    """A setting. candidates: loads with each value that may be the fastest; one where the user
    chose. The function is given the load with the levers before, and whether a load fits. Of equal
    ones the first is taken. words: how a reason names what a load has."""

    setting: str
    candidates: Callable[[RunInputs, Load, Fits], Iterable[Load]]
    words: Callable[[Transformer, Load], str]


@dataclass(frozen=True)
class Combination:
    """One combination of candidates, with what it needs and takes."""

    words: str
    load: Load
    need: int  # bytes
    seconds: float  # of a step


@dataclass(frozen=True)
class Fastest:
    """The choice, and why. reason is empty where there was none."""

    load: Load
    reason: str


def modulations(inputs: RunInputs, load: Load, fits: Fits) -> Iterator[Load]:
    """The AdaLN weights on the device or, where they may leave it, in host memory."""
    if not may_leave(inputs) or inputs.config.modulations == "auto":
        yield replace(load, modulations_off=False)
    if may_leave(inputs):
        yield replace(load, modulations_off=True)


def keeping(inputs: RunInputs, load: Load, fits: Fits) -> Iterator[Load]:
    """What blocks keep for the backward pass. Everything is among the candidates also where it does
    not fit, so that the reason names it."""
    if (decided := settled(inputs, load)) is not None:
        yield replace(load, keep=decided.value)
        return
    yield from open_choices(inputs, load, fits)
    if may_keep_everything(inputs, load):
        layers = inputs.model.transformer.layers
        yield replace(load, keep=mixed(layers, layers, 0))


def kept_words(keep: tuple[Keep, ...]) -> str:
    """As a reason names it: "every block keeps inputs", "everything in 11 blocks, attention in
    13"."""
    return summary(keep) if len(set(keep)) > 1 else f"every block keeps {summary(keep)}"


LEVERS = (
    Lever(
        "modulations",
        modulations,
        lambda shape, load: "AdaLN weights in host memory" if load.modulations_off else "",
    ),
    Lever(
        "gradient_checkpointing_keep",
        keeping,
        lambda shape, load: kept_words(of_load(shape, load)),
    ),
)


def fastest(inputs: RunInputs, load: Load, levers: Sequence[Lever] = LEVERS) -> Fastest:
    """The fastest combination that fits with memory to spare; where none has that much, the
    smallest one. load: of the run with its precision and batch."""
    known, room = speeds.speed(inputs.facts), inputs.room_bytes
    most = int(SPACIOUS.get(inputs.facts.vendor, SPACIOUS_ELSEWHERE) * (room or 0))

    def fits(changed: Load) -> bool:
        return estimate(inputs.model, changed).training <= most

    loads = [load]
    for lever in levers:
        loads = [changed for each in loads for changed in lever.candidates(inputs, each, fits)]
    different = [each for i, each in enumerate(loads) if each not in loads[:i]]
    options = [_combination(inputs, each, levers, known or SOME_SPEED) for each in different]
    chosen = choose(options, most)
    if len(options) == 1 or room is None:
        return Fastest(chosen.load, "")
    return Fastest(chosen.load, reason(chosen, options, room, timed=known is not None))


def _combination(
    inputs: RunInputs, load: Load, levers: Sequence[Lever], speed: Speed
) -> Combination:
    shape, tokens = inputs.model.transformer, inputs.average_tokens
    words = [lever.words(shape, load) for lever in reversed(levers)]
    need = estimate(inputs.model, load).training
    return Combination(", ".join(filter(None, words)), load, need,
                  step_seconds(shape, load, speed, tokens))  # fmt: skip


def choose(options: Sequence[Combination], most: int) -> Combination:
    """The fastest that needs at most so many bytes, or the smallest."""
    roomy = [o for o in options if o.need <= most]
    if roomy:
        return min(roomy, key=lambda o: o.seconds)
    return min(options, key=lambda o: (o.need, o.seconds))


def reason(chosen: Combination, options: Sequence[Combination], room: int, *, timed: bool) -> str:
    """What was chosen, and what the nearest alternative would take: the fastest of all, where it
    does not fit, or else the smallest."""

    def seconds(option: Combination) -> str:
        return f"{clock(option.seconds)} a step" if timed else "of unknown speed"

    head = f"{chosen.words}: {seconds(chosen)}, {gib(chosen.need)} of {gib(room)}"
    faster = [o for o in options if o.seconds < chosen.seconds]
    if faster:
        best = min(faster, key=lambda o: o.seconds)
        return f"{head}; {best.words} would be {seconds(best)} but need {gib(best.need)}"
    smaller = [o for o in options if o.need < chosen.need]
    if not smaller:
        return head
    least = min(smaller, key=lambda o: (o.need, o.seconds))
    return f"{head}; {least.words} would be {seconds(least)} and need {gib(least.need)}"


def keep_decision(inputs: RunInputs, picked: Fastest) -> Decision[tuple[Keep, ...]]:
    """What the blocks keep, as the plan shows it. Raises PlanError as `settled` does."""
    decided = settled(inputs, replace(picked.load, keep=()))
    return decided or Decision(picked.load.keep, AUTO, picked.reason)
