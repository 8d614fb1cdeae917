"""The end of a queue, in a terminal: each run with its result, loss, time and folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.cli.words import Line

MINUTE, HOUR = 60, 3600
STOPPED = "stopped"


@dataclass(frozen=True)
class QueuedResult:
    """How one run of a queue ended. code: its exit code; None: it was not started."""

    config: str
    result: str  # finished, finished before, stopped, failed, not started
    code: int | None
    steps: str = ""
    loss_before: float | None = None
    loss_after: float | None = None
    output: str = ""
    seconds: float = 0


def queue_lines(results: Sequence[QueuedResult]) -> "list[Line]":
    """One pair of lines for each run, under a heading."""
    width = max(len(result.result) for result in results)
    shown: list[Line] = [f"queue of {len(results)} runs"]
    for each in results:
        head, facts = f"  {each.result:<{width}}  {each.config}", _facts(each)
        shown.append((head, facts) if facts else head)
    return shown


def _facts(each: QueuedResult) -> str:
    facts = []
    if each.code:
        facts.append(f"exit code {each.code}")
    if each.steps:
        facts.append(f"steps {each.steps}")
    if each.loss_before is not None and each.loss_after is not None:
        facts.append(f"loss {each.loss_before:.4f} before, {each.loss_after:.4f} after")
    if each.code is not None:
        facts.append(duration(each.seconds))
    if each.output:
        facts.append(each.output)
    return "; ".join(facts)


def duration(seconds: float) -> str:
    """`4 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
