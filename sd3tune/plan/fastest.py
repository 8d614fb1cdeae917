"""Settings that are left open and do not change what is learned: the fastest of them that fit.

A lever is one row of LEVERS: the candidates that a run has for one setting, each as the load that
it makes. Memory and time follow from the load (plan/memory.py, plan/step_work.py). All combinations
are tried, but for those that could not be faster than one that fits. Choices that change numbers
are not made here: batch size and quantisation are decided before, with modulations, parts of the
batch and checkpointing at their smallest, so that weights are quantised only where nothing else
makes room; blocks are swapped where even that is not enough, or where it is faster.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sd3tune.backends.decide import speeds
from sd3tune.backends.decide.speeds import Speed
from sd3tune.decision import AUTO, Decision
from sd3tune.plan import batch_split
from sd3tune.plan.block_keeping import Keep, mixed, of_load, summary
from sd3tune.plan.duration import clock, step_seconds
from sd3tune.plan.host_memory import swapping, waiting_inputs
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.keep_choice import may_keep_everything, most_kept, open_choices, settled
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.plan.modulation_plan import ROOMY, may_leave
from sd3tune.sd3.variants import Transformer

# Of the memory that may be filled, by vendor: what a choice may need that trades memory for time.
# Estimates were compared with NVIDIA's allocator only.
SPACIOUS = {"cuda": ROOMY}
SPACIOUS_ELSEWHERE = 0.75
EQUAL = 0.02  # relative, of a step's time: what is gained by less is left
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
    layers = inputs.model.transformer.layers
    least = replace(load, keep=mixed(layers, 0, 0))
    if fits(least):
        yield from open_choices(inputs, load, fits)
    else:
        yield least
    if may_keep_everything(inputs, load):
        yield replace(load, keep=mixed(layers, layers, 0))


def kept_words(keep: tuple[Keep, ...]) -> str:
    """As a reason names it: "every block keeps inputs", "everything in 11 blocks, attention in
    13"."""
    return summary(keep) if len(set(keep)) > 1 else f"every block keeps {summary(keep)}"


def splitting(inputs: RunInputs, load: Load, fits: Fits) -> Iterator[Load]:
    """The batch at once, and in parts."""
    if batch_split.is_open(inputs.config):
        yield from batch_split.every_split(load)
    else:
        yield load


def split_words(load: Load) -> str:
    """ "2 images at a time"; empty for whole batches."""
    if not load.images:
        return ""
    return f"{load.batch} image{'s' if load.batch > 1 else ''} at a time"


def swap_words(load: Load) -> str:
    """ "12 blocks swapped"; empty for none."""
    return f"{load.swapped} block{'s' if load.swapped > 1 else ''} swapped" if load.swapped else ""


LEVERS = (
    Lever(
        "modulations",
        modulations,
        lambda shape, load: "AdaLN weights in host memory" if load.modulations_off else "",
    ),
    Lever(
        "gradient_checkpointing_backend",
        waiting_inputs,
        lambda shape, load: "their inputs in host memory" if load.inputs_on_host else "",
    ),
    Lever("batch_split", splitting, lambda shape, load: split_words(load)),
    Lever("blocks_to_swap", swapping, lambda shape, load: swap_words(load)),
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
    search = Search(inputs, levers, known or SOME_SPEED, most)
    search.explore(load, 0)
    options = list(search.options.values())
    chosen = choose(options, most, room or 0)
    if len(options) == 1 or room is None:
        return Fastest(chosen.load, "")
    return Fastest(chosen.load, reason(chosen, options, room, timed=known is not None))


class Search:
    """Goes through all combinations of candidates, lever by lever. options: those that were
    weighed, by their loads. A combination is left out where it would not be faster than one that
    fits even if all of its blocks kept as much as they may."""

    def __init__(self, inputs: RunInputs, levers: Sequence[Lever], speed: Speed, most: int) -> None:
        self.options: dict[Load, Combination] = {}
        self._inputs, self._levers, self._speed, self._most = inputs, levers, speed, most
        self._needs: dict[Load, int] = {}
        self._best = float("inf")  # seconds of the fastest that fits

    def explore(self, load: Load, done: int) -> None:
        """load: with a candidate of each of the first `done` levers."""
        if self._at_best(load) >= self._best:
            return
        if done == len(self._levers):
            self._weigh(load)
            return
        for candidate in self._levers[done].candidates(self._inputs, load, self._fits):
            self.explore(candidate, done + 1)

    def _weigh(self, load: Load) -> None:
        shape = self._inputs.model.transformer
        words = filter(None, (lever.words(shape, load) for lever in reversed(self._levers)))
        need, seconds = self._need(load), self._seconds(load)
        self.options[load] = Combination(", ".join(words), load, need, seconds)
        if need <= self._most:
            self._best = min(self._best, seconds)

    def _at_best(self, load: Load) -> float:
        return self._seconds(replace(load, keep=most_kept(self._inputs, load)))

    def _seconds(self, load: Load) -> float:
        shape, tokens = self._inputs.model.transformer, self._inputs.average_tokens
        return step_seconds(shape, load, self._speed, tokens)

    def _need(self, load: Load) -> int:
        if load not in self._needs:
            self._needs[load] = estimate(self._inputs.model, load).training
        return self._needs[load]

    def _fits(self, load: Load) -> bool:
        return self._need(load) <= self._most


def choose(options: Sequence[Combination], most: int, room: int) -> Combination:
    """The fastest that needs at most so many bytes, or the smallest. Blocks are swapped where
    nothing else fits the room, or where it is faster by more than EQUAL."""

    def seconds(option: Combination) -> float:
        return option.seconds / (1 - EQUAL) if option.load.swapped else option.seconds

    tight = [o for o in options if o.need <= room and not o.load.swapped]
    least = min(tight or options, key=lambda o: (o.need, o.seconds))
    roomy = [o for o in options if o.need <= most]
    if not roomy:
        return least
    best = min(roomy, key=seconds)
    return least if tight and best.load.swapped and least.seconds <= seconds(best) else best


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
