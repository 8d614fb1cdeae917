"""How `sd3tune image check` looks in a terminal, and as JSON: docs/reference/json.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import sd3tune
from sd3tune.escaping import page

if TYPE_CHECKING:
    from sd3tune.containers.check import Line


def checked(lines: "Sequence[Line]") -> str:
    shown = []
    for line in lines:
        shown.append(f"{line.status:<4}  {line.name}: {line.fact}")
        if line.fix:
            shown.append(f"      fix: {line.fix}")
    can = not any(line.status == "FAIL" for line in lines)
    return page([*shown, "", f"a container can{'' if can else 'not'} train here"])


def checked_json(lines: "Sequence[Line]") -> str:
    document = {
        "schema": 1,
        "tool": "sd3tune image check",
        "version": sd3tune.__version__,
        "can_train": not any(line.status == "FAIL" for line in lines),
        "lines": [asdict(line) for line in lines],
    }
    return json.dumps(document, indent=1)
