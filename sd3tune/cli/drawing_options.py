"""Options that `sample` and `reproduce` share: where to draw, and what is shown of the plan."""

from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words

if TYPE_CHECKING:
    from sd3tune.plan.drawing import DrawingPlan

ON_CPU = click.option("--on-cpu", is_flag=True, help="draw on the CPU, whatever else is here")
MODEL = click.option(
    "--model", metavar="MODEL", help="the base model: a folder, a repository or a single file"
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="print the plan and stop")


def plan_lines(plan: "DrawingPlan") -> list[words.Line]:
    """Decisions with their reasons, what is drawn, and the memory."""
    from sd3tune.cli.decision_lines import decision_lines
    from sd3tune.plan.drawing import drawing_decisions, memory_words
    from sd3tune.plan.drawing_words import asked_words

    return [
        *decision_lines(as_written(drawing_decisions(plan))),
        "",
        *asked_words(plan.asked),
        f"memory   {memory_words(plan)} (estimates)",
    ]


def as_written(decisions: dict[str, Any]) -> dict[str, Any]:
    """Decisions with values as the user would write them."""
    from sd3tune.plan.describe import as_written

    return {axis: as_written(axis, decision) for axis, decision in decisions.items()}


def plan_document(plan: "DrawingPlan") -> dict[str, Any]:
    """The plan as JSON."""
    from dataclasses import asdict

    from sd3tune.plan.describe import decision
    from sd3tune.plan.drawing import drawing_decisions

    need = plan.memory.estimate
    return {
        "decisions": {axis: decision(d) for axis, d in as_written(drawing_decisions(plan)).items()},
        "memory": {
            **{f"{name}_bytes": int(amount) for name, amount in asdict(need).items()},
            "drawing_bytes": need.training,
            "decoding_bytes": plan.memory.decoding,
            "available_bytes": plan.facts.weakest.room_bytes,
        },
    }
