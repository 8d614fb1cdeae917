"""Facts of another machine, from what its `sd3tune doctor --json` printed or `--report` wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import card_faults
from sd3tune.backends.observe.facts import Facts, Problem, from_json
from sd3tune.errors import ConfigError
from sd3tune.filesystem import opening


def facts(path: Path) -> Facts:
    """What others used there at that time does not count. Raises ConfigError when the file is not
    such a document."""
    try:
        document = opening.json_object(path)["facts"]
        _refuse_huge(document)
        found = from_json(Facts, document)
    except OSError as e:
        raise ConfigError(
            f"`{path}` cannot be read: {e.strerror or e}",
            hint="--on takes a chip's name, or a file written by `sd3tune doctor --json`",
        ) from None
    except (AttributeError, ValueError, KeyError, TypeError):  # not JSON, or another document
        raise ConfigError(
            f"`{path}` is not what `sd3tune doctor --json` prints",
            hint="run `sd3tune doctor --json > machine.json` or `--report machine.json` there",
        ) from None
    if not found.devices:
        raise ConfigError(
            f"`{path}` is of a machine without a device", hint="plan for a machine that has one"
        )
    devices = tuple(
        replace(device.emptied, problems=_lasting(device.problems)) for device in found.devices
    )
    return replace(found, devices=devices, problems=_lasting(found.problems), origin="recorded")


def _lasting(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    return tuple(p for p in problems if p.id not in card_faults.OF_THE_MOMENT)


def _refuse_huge(value: Any) -> None:
    """Raises ValueError for numbers that no machine has, which arithmetic could not take."""
    if isinstance(value, dict):
        _refuse_huge(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            _refuse_huge(inner)
    elif isinstance(value, int | float) and not abs(value) < 2**63:
        raise ValueError("it holds a number that no machine has")
