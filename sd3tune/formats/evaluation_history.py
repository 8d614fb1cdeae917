"""The evaluation losses of a run so far, as its checkpoints hold them: which one is the lowest, and
whether they end the run early. No torch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

History = Sequence[Sequence[float]]  # step and loss of each evaluation after training began


class BestEvaluation(NamedTuple):
    """The evaluation with the lowest loss."""

    step: int
    loss: float
    since: int  # evaluations after it


def best(history: History) -> BestEvaluation | None:
    """The first one with the lowest loss; a loss that is not a number is never the lowest. None
    where there is none."""
    numbers = [(loss, i) for i, (_, loss) in enumerate(history) if not math.isnan(loss)]
    if not numbers:
        return None
    loss, place = min(numbers)
    return BestEvaluation(int(history[place][0]), loss, len(history) - 1 - place)


def ended_early(history: History, patience: int | None) -> bool:
    """Whether the run ends before its last step: the last `patience` evaluations brought no new
    lowest loss. None: never."""
    if patience is None:
        return False
    lowest = best(history)
    since = len(history) if lowest is None else lowest.since
    return since >= patience
