"""A plan as plain data: `plan --json`, and what every checkpoint carries. docs/reference/json.md"""

from dataclasses import asdict
from typing import Any

from sd3tune import __version__
from sd3tune.backends.observe.facts import to_json
from sd3tune.decision import Decision
from sd3tune.plan.resolve import Plan


def decision(d: Decision[str]) -> dict[str, Any]:
    return {
        "value": int(d.value) if d.value.isdigit() else d.value,
        "source": d.source.by,
        "reason": d.reason,
        "rejected": [{"name": r.name, "reasons": list(r.reasons)} for r in d.rejected],
    }


def describe(plan: Plan) -> dict[str, Any]:
    """JSON-ready. Bytes are integers; a decision's value is a word, or a whole number where the
    setting is one."""
    room = plan.device.usable_bytes or plan.device.total_bytes
    memory = {name: int(amount) for name, amount in asdict(plan.memory).items()}
    return {
        "schema": 1,
        "tool": "sd3tune plan",
        "version": __version__,
        "measured": plan.facts.origin == "measured",
        "decisions": {axis: decision(d) for axis, d in plan.decisions.items()},
        "memory": {
            **{f"{name}_bytes": amount for name, amount in memory.items()},
            "training_bytes": plan.memory.training,
            "available_bytes": room,
            "estimated": ["activations_bytes", "workspace_bytes"],
        },
        "warnings": list(plan.warnings),
        "facts": to_json(plan.facts),
        "config": plan.config.model_dump(mode="json"),
    }
