"""A run on many cards as a table, for `plan --compare`: a line each, 79 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sd3tune.report.width import wrapped

if TYPE_CHECKING:
    from sd3tune.card_comparison import CardAnswer
    from sd3tune.plan.plan import Plan

HEAD = ("card", "GiB needed", "s/step", "+-", "time", "cost", "batch", "weights", "again")
NOTES = (
    "GiB needed: of what a run may fill, estimated. s/step and time: estimated from",
    "data sheets, within +- as far as is known; time: of a first run, everything",
    "included. batch 4/2: 4 images in 2 parts. again: blocks that are recomputed in",
    "the backward pass; +12: all, and 12 blocks are swapped.",
    "`sd3tune plan --on CARD` gives the reasons.",
)
WIDTH = 80
REASON = 300  # characters of why a card does not fit


def comparison_lines(answers: "Sequence[CardAnswer]") -> list[str]:
    """The table of the cards that fit, and why the others do not."""
    fitting = [a for a in answers if a.plan is not None]
    lines = [row(*HEAD), *(row(*cells(a)) for a in fitting)] if fitting else []
    for each in answers:
        if each.plan is None:
            lines += [
                "",
                f"{each.chip.key}: not possible",
                *wrapped("  " + _short(each.why), WIDTH),
            ]
            lines += wrapped(f"  hint: {each.hint}", WIDTH)
    return [*lines, "", *NOTES] if fitting else lines


def _short(why: str) -> str:
    return why if len(why) <= REASON else why[: REASON - 2].rstrip() + " …"


def cells(answer: "CardAnswer") -> tuple[str, ...]:
    """One line of a card that fits."""
    from sd3tune.plan.duration import clock
    from sd3tune.plan.memory import GIB

    plan, time = answer.plan, answer.time
    assert plan is not None
    need, room = plan.memory.estimate.training / GIB, answer.chip.usable_bytes / GIB
    step = "?" if time is None else _figure(time.step.seconds)
    return (
        answer.chip.key,
        f"{need:.1f} of {room:.1f}",
        step,
        "" if time is None else f"{time.step.error:.0%}",
        "?" if time is None else clock(time.total.seconds),
        "" if answer.cost is None else f"{answer.cost:.2f}",
        batch(plan),
        weights(plan),
        swapped(plan) or recomputed(plan),
    )


def weights(plan: "Plan") -> str:
    """How the frozen weights are stored."""
    scheme = plan.precision.transformer.value
    if scheme == "no_change":
        return plan.precision.base.value
    first, _, kind = scheme.partition("-")
    return f"{first[0]}8-w8a8" if kind == "w8a8" else first  # int8-w8a8 in seven characters


def batch(plan: "Plan") -> str:
    """Images of a batch, and the parts in which it is computed: "4/2"."""
    parts = plan.memory.split.value
    return f"{plan.batch_size}/{parts}" if parts > 1 else str(plan.batch_size)


def swapped(plan: "Plan") -> str:
    """Blocks that live in host memory, where all are computed again: "+12"; empty for none."""
    count = plan.memory.blocks_to_swap.value
    return f"+{count}" if count else ""


def recomputed(plan: "Plan") -> str:
    """Blocks that are computed again in the backward pass."""
    keep, layers = plan.memory.keep.value, plan.model.transformer.layers
    count = sum(what != "everything" for what in keep)
    return {0: "none", layers: "all"}.get(count, f"{count}/{layers}")


def row(*cells: str) -> str:
    name, memory, step, error, time, cost, batch, stored, again = cells
    return (
        f"{name:<16} {memory:>14} {step:>6} {error:>4} {time:>8} {cost:>7} {batch:>5} "
        f"{stored:<7} {again:<5}".rstrip()
    )


def _figure(value: float) -> str:
    """Two or three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def document(answers: "Sequence[CardAnswer]") -> dict[str, Any]:
    """`plan --compare --json`: bytes, seconds, the money of the prices."""
    return {"cards": [_card(a) for a in answers]}


def _card(answer: "CardAnswer") -> dict[str, Any]:
    from sd3tune.plan.describe import described_time

    plan, time = answer.plan, answer.time
    common = {
        "name": answer.chip.key,
        "chip": answer.chip.name,
        "fits": plan is not None,
        "available_bytes": answer.chip.usable_bytes,
        "price_per_hour": answer.price,
        "cost": None if answer.cost is None else round(answer.cost, 4),
    }
    if plan is None:
        return common | {"why": answer.why, "hint": answer.hint}
    return common | {
        "training_bytes": plan.memory.estimate.training,
        "time": None if time is None else described_time(time),
        "chosen": {
            "base_model_precision": plan.precision.transformer.value,
            "train_batch_size": plan.batch_size,
            "batch_split": plan.memory.split.value,
            "blocks_to_swap": plan.memory.blocks_to_swap.value,
            "gradient_checkpointing": recomputed(plan),
            "modulations": plan.memory.modulations.value,
            "dynamo_backend": plan.hardware.compiler.value or "no",
        },
    }
