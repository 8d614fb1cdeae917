"""Plans with other decisions than the machine of the test would give."""

from dataclasses import replace

from sd3tune.plan.plan import Plan


def decided(plan: Plan, part: str, **values: object) -> Plan:
    """The same plan with other values of some decisions of one part, such as `precision`."""
    own = getattr(plan, part)
    changed = {name: replace(getattr(own, name), value=value) for name, value in values.items()}
    return replace(plan, **{part: replace(own, **changed)})  # type: ignore[arg-type]
