"""Whether compiling the blocks pays back: a choice by arithmetic, where the user made none.

The time saved is a share of the step time that `duration.py` expects, taken at the lowest gain that
was published for such models; what compiling costs is counted per kind of block. Neither has been
measured on a card, so the run must save twice the cost.
"""

from dataclasses import dataclass, replace

from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision
from sd3tune.sd3.variants import Transformer

INDUCTOR = "inductor"
# Share of a step's time. Published for LoRA of diffusion transformers: 1.2 to 2.3 times as fast.
SAVED_SHARE = 1 - 1 / 1.2
# Tracing and compiling forward and backward pass of one kind of block, into an empty cache.
SECONDS_PER_KIND = 15.0
MARGIN = 2.0  # times the cost must be saved
UNTESTED = "untested on hardware"


@dataclass(frozen=True)
class Prospect:
    """What compiling could bring to a run. step_seconds: expected without compiling; None: the rate
    of the device is unknown."""

    vendor: str
    steps: int
    step_seconds: float | None
    kinds: int  # of blocks

    @property
    def saved_per_step(self) -> float:
        """Seconds; 0 where nothing is known."""
        return (self.step_seconds or 0.0) * SAVED_SHARE

    @property
    def cost(self) -> float:
        """Seconds that compiling takes."""
        return self.kinds * SECONDS_PER_KIND


def kinds_of_blocks(shape: Transformer) -> int:
    """Blocks with a second attention, plain ones, and the last, which gives no text."""
    plain = shape.layers - 1 - min(shape.dual_layers, shape.layers - 1)
    return 1 + (shape.dual_layers > 0) + (plain > 0)


def chosen(
    decided: Decision[str | None], config: Config, prospect: Prospect
) -> Decision[str | None]:
    """The compiler, given what the rules decided: the user's choice and a rule's refusal stay."""
    refused = next((r for r in decided.rejected if r.name == INDUCTOR), None)
    if decided.source.by == "user" or refused is not None:
        return decided
    if (why := reason_against(config, prospect)) is not None:
        return replace(decided, reason=why)
    return Decision(INDUCTOR, AUTO, f"{pays(prospect)}; {UNTESTED}", decided.rejected)


def reason_against(config: Config, prospect: Prospect) -> str | None:
    """Why the blocks are not compiled; None where compiling pays."""
    if config.use_dora:
        return "DoRA's layers would be compiled in pieces"
    if prospect.vendor == "cpu":
        return "on processors, compiled blocks were measured no faster than others"
    if prospect.step_seconds is None:
        return "the step time of this device is unknown; dynamo_backend=inductor compiles"
    if prospect.steps * prospect.saved_per_step < MARGIN * prospect.cost:
        return f"{does_not_pay(prospect)}; dynamo_backend=inductor compiles anyway"
    return None


def pays(p: Prospect) -> str:
    """The arithmetic in favour."""
    total, eager = p.steps * p.saved_per_step, p.steps * (p.step_seconds or 0.0)
    return (
        f"{p.steps:,} steps x {p.saved_per_step:.2g} s saved = {total:,.0f} s, more than "
        f"{MARGIN:g} x {p.cost:.0f} s to compile {p.kinds} kinds of blocks; dynamo_backend=no would "
        f"take about {eager:,.0f} s"
    )


def does_not_pay(p: Prospect) -> str:
    """The arithmetic against."""
    total = p.steps * p.saved_per_step
    return (
        f"{p.steps:,} steps x {p.saved_per_step:.2g} s saved = {total:,.0f} s, less than "
        f"{MARGIN:g} x {p.cost:.0f} s to compile {p.kinds} kinds of blocks"
    )
