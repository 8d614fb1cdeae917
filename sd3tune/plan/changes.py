"""The differences between two plans of one run, for users who have seen the first one."""

from sd3tune.decision import AUTO, Decision
from sd3tune.plan.describe import decisions
from sd3tune.plan.plan import Plan


def changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """A sentence for every decision with another value: `train_batch_size 4 -> 3: the reason`.

    Only values are compared: a reason that names another number of images changes nothing that
    will happen. A decision that only one plan has is `none` in the other.
    """
    first, second = decisions(before), decisions(after)
    absent = Decision("none", AUTO, "")
    lines = []
    for axis in {**first, **second}:
        old, new = first.get(axis, absent), second.get(axis, absent)
        if old.value != new.value:
            reason = f": {new.reason}" if new.reason else ""
            lines.append(f"{axis} {old.value} -> {new.value}{reason}")
    return tuple(lines)
