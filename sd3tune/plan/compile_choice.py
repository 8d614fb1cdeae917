"""Whether compiling the blocks pays back: a choice by arithmetic, where the user made none.

Step times with and without compiling are what `duration.py` expects; what compiling costs is
counted per kind of block. Neither gain nor cost was measured on a card, so a run must save twice
what compiling costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sd3tune.backends.decide import speeds
from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision
from sd3tune.plan.block_keeping import Keep, of_load
from sd3tune.plan.duration import step_seconds
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.keep_choice import INPUTS_STAY
from sd3tune.plan.memory import Load
from sd3tune.sd3.variants import Transformer

INDUCTOR, NOTHING = "inductor", "no"
# Tracing and compiling forward and backward pass of one kind of block, into an empty cache.
SECONDS_PER_KIND = 15.0
MARGIN = 2.0  # times the cost must be saved
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes
UNTESTED = "untested on hardware"
ANYWAY = "dynamo_backend=inductor compiles anyway"
COPIES = f"with blocks_to_swap, copies decide how long a step takes; {ANYWAY}"


@dataclass(frozen=True)
class Prospect:
    """What compiling would bring to a run: expected seconds of a step without it and with it; None
    where the speed of the device is unknown. kinds: of blocks, each compiled once. swapped: blocks
    are, because the run does not fit without it."""

    steps: int
    kinds: int
    eager: float | None
    compiled: float | None
    swapped: bool = False

    @property
    def saved(self) -> float:
        """Seconds, over the run."""
        return self.steps * ((self.eager or 0.0) - (self.compiled or 0.0))

    @property
    def cost(self) -> float:
        """Seconds that compiling takes."""
        return self.kinds * SECONDS_PER_KIND


def prospect(inputs: RunInputs, eager: Load, compiled: Load, steps: int) -> Prospect:
    """The prospect of a run by arithmetic. eager, compiled: one step of it, each with what is the
    fastest beside."""
    facts, shape = inputs.facts, inputs.model.transformer
    speed, kinds = speeds.speed(facts), kinds_of_blocks(shape, of_load(shape, compiled))
    if speed is None:
        return Prospect(steps, kinds, None, None)
    before, after = (step_seconds(shape, load, speed) for load in (eager, compiled))
    return Prospect(steps, kinds, before, after, swapped=bool(eager.swapped))


def kinds_of_blocks(shape: Transformer, keep: Sequence[Keep]) -> int:
    """Blocks with a second attention, plain ones, and the last, which gives no text; those that
    keep the outputs of attention are compiled by themselves."""
    last = shape.layers - 1
    return len({
        (index < shape.dual_layers, index == last, what == "attention")
        for index, what in enumerate(keep)
    })  # fmt: skip


def choose(decided: Decision[str], config: Config, expected: Prospect) -> Decision[str]:
    """The compiler, given what the rules decided: the user's choice and a rule's refusal stay."""
    if not is_open(decided):
        return decided
    if (why := excluded(config) or against(expected)) is not None:
        return replace(decided, reason=why)
    return Decision(INDUCTOR, AUTO, in_favour(expected), decided.rejected)


def is_open(decided: Decision[str]) -> bool:
    """Neither the user nor a rule has decided."""
    refused = any(r.name == INDUCTOR for r in decided.rejected)
    return decided.source.by != "user" and not refused


def may_pay(decided: Decision[str], config: Config) -> bool:
    """A run that is long enough would be compiled."""
    return is_open(decided) and excluded(config) is None


def excluded(config: Config) -> str | None:
    """The setting for which no length of a run would make its blocks be compiled; None where one
    may."""
    if config.use_dora:
        return "DoRA's layers cannot be compiled"
    if config.dynamo_mode in CUDA_GRAPHS:
        return f"dynamo_mode={config.dynamo_mode} needs CUDA graphs, which are not supported"
    outputs = config.gradient_checkpointing_keep == "attention"
    if outputs and config.gradient_checkpointing_backend == "unsloth":
        return INPUTS_STAY
    return COPIES if config.blocks_to_swap else None


def against(expected: Prospect) -> str | None:
    """Why compiling does not pay; None where it does."""
    if expected.swapped:
        return COPIES
    if expected.eager is None:
        return f"how fast this device trains is unknown; {ANYWAY}"
    if expected.saved < MARGIN * expected.cost:
        return f"{sum_of(expected)}, and compiling takes about {clock(expected.cost)}; {ANYWAY}"
    return None


def in_favour(expected: Prospect) -> str:
    """The arithmetic, and what the next best choice would cost."""
    eager = clock(expected.steps * (expected.eager or 0.0))
    return (
        f"{sum_of(expected)}, for about {clock(expected.cost)} of compiling "
        f"({expected.kinds} kinds of blocks); dynamo_backend=no would take about {eager}; "
        f"{UNTESTED}"
    )


def sum_of(expected: Prospect) -> str:
    """ "3,000 steps x 0.2 s saved = 600 s"."""
    each = expected.saved / max(expected.steps, 1)
    return f"{expected.steps:,} steps x {clock(each)} save {clock(expected.saved)}"


def clock(seconds: float) -> str:
    """For people: "0.02 s", "45 s", "12 min"."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.2f} s"
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
