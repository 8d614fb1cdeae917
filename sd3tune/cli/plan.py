"""`sd3tune plan`: what a run would do, need and refuse."""

import json
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, prepared
from sd3tune.cli.dashes import SettingsAsOptions
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.plan.plan import Plan


@click.command("plan", cls=SettingsAsOptions, short_help="What a run would do, need and refuse.")
@CONFIG_AND_OVERRIDES
@JSON
@click.option(
    "--on",
    "chip",
    metavar="NAME",
    help="plan for a catalogued chip, or for the "
    "machine whose `doctor --json` is in the file NAME.json",
)
def command(arguments: tuple[str, ...], as_json: bool, chip: str | None) -> None:
    """Show what a run would do, need and refuse, before any weight is loaded or money spent.

    CONFIG is config/config.json unless given. Each KEY=VALUE overrides the file.

    \b
      sd3tune plan
      sd3tune plan my/config.json lora_rank=64 --on mi300x
      sd3tune plan my/config.json --on rented.json
    """
    plan = prepared(arguments, chip).plan
    echo(document(plan)) if as_json else words.show(lines(plan))


def lines(plan: "Plan") -> list[words.Line]:
    """Decisions, memory and warnings, as `plan` and `train` show them."""
    from sd3tune.cli.decision_lines import decision_lines
    from sd3tune.plan.describe import decisions
    from sd3tune.plan.memory import gib

    m, device = plan.memory.estimate, plan.hardware.device
    room = device.usable_bytes or device.total_bytes
    parts = {
        "weights": m.weights,
        "adapter": m.adapter,
        "gradients": m.gradients,
        "optimizer": m.optimizer,
        "activations, estimated": m.activations,
        "workspace, estimated": m.workspace,
    }
    shown = [*decision_lines(decisions(plan)), "", "memory while training"]
    shown += [f"  {name:<24}{gib(amount):>10}" for name, amount in parts.items()]
    has = f"of {gib(room)}" if room else "of unknown"
    shown.append(f"  {'total':<24}{gib(m.training):>10}  {has}")
    shown.append(
        f"  {'text encoders before':<24}{gib(m.text_encoders):>10}  dropped after encoding"
    )
    return [*shown, *(f"warning: {w}" for w in plan.warnings)]


def document(plan: "Plan") -> str:
    """`plan --json`, and the plan.json of a checkpoint."""
    from sd3tune.plan.describe import describe

    return json.dumps(describe(plan), indent=1)
