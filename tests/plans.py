"""Plans of chips of the catalogue, without a file and without torch; and plans with other
decisions than the machine of the test would give."""

from dataclasses import replace
from typing import Any

from sd3tune.backends.decide import chips
from sd3tune.config.config import Config
from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find

MEDIUM, LARGE = "stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large"


def samples(count: int = 20, size: tuple[int, int] = (1024, 1024)) -> list[Sample]:
    shape = Geometry(size, (0, 0), size, 1.0)
    return [Sample("d", f"{i}.png", f"{i}.png", size, ("x",), shape, i) for i in range(count)]


def plan(
    chip: str, model: str = MEDIUM, count: int = 20, side: int = 1024, **settings: Any
) -> Plan:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    values = {k: v for k, v in values.items() if v is not None}
    facts = chips.facts(chips.chip(chip))
    return resolve(RunInputs(Config(**values), facts, find(model), samples(count, (side, side))))


def decided(plan: Plan, part: str, **values: object) -> Plan:
    """The same plan with other values of some decisions of one part, such as `precision`."""
    own: Any = getattr(plan, part)
    changed = {name: replace(getattr(own, name), value=value) for name, value in values.items()}
    parts: dict[str, Any] = {part: replace(own, **changed)}
    return replace(plan, **parts)
