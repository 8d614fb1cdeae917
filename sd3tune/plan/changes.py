"""What differs between two plans of one run, for whoever was shown the first."""

from sd3tune.plan.describe import describe
from sd3tune.plan.resolve import Plan


def changes(before: Plan, after: Plan) -> tuple[str, ...]:
    """A sentence for every decision with another value: `train_batch_size 4 -> 3: the reason`.

    Only values are compared: a reason that names another number of images changes nothing that
    will happen. A decision that only one plan has is `none` in the other.
    """
    first, second = describe(before)["decisions"], describe(after)["decisions"]
    lines = []
    for axis in {**first, **second}:
        old, new = (rows.get(axis, {"value": "none", "reason": ""}) for rows in (first, second))
        if old["value"] != new["value"]:
            reason = f": {new['reason']}" if new["reason"] else ""
            lines.append(f"{axis} {old['value']} -> {new['value']}{reason}")
    return tuple(lines)
