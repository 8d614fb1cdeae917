"""`sd3tune plan`: what a run would do, need and refuse."""

import json
from typing import TYPE_CHECKING

import click

from sd3tune.cli import overview_lines, words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, prepared
from sd3tune.cli.dashes import settings_command
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.prepare import Prepared


@settings_command("plan", "What a run would do, need and refuse.")
@CONFIG_AND_OVERRIDES
@JSON
@click.option(
    "--on",
    "chip",
    metavar="NAME",
    help="plan for a chip of the catalogue (`--on list` prints it), or for the "
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
    if chip == "list":
        from sd3tune.cli import catalogue_lines

        if as_json:
            echo(words.document("plan", catalogue_lines.document()))
        else:
            words.show(catalogue_lines.catalogue_lines())
        return
    ready = prepared(arguments, chip)
    echo(document(ready)) if as_json else words.show(lines(ready))


def lines(ready: "Prepared") -> list[words.Line]:
    """Decisions, data, memory, disk and warnings, as `plan` and `train` show them."""
    from sd3tune.cli.decision_lines import decision_lines
    from sd3tune.plan.describe import decisions
    from sd3tune.run_overview import overview_of

    plan, seen = ready.plan, overview_of(ready)
    parts = (
        decision_lines(decisions(plan)),
        overview_lines.data(seen, plan.steps),
        overview_lines.pictures(seen, plan.pictures),
        overview_lines.evaluation(seen, plan),
        overview_lines.memory(plan, seen),
        overview_lines.time(seen),
        overview_lines.disk(seen),
    )
    shown = [line for i, part in enumerate(parts) for line in ([""] if i and part else []) + part]
    return [*shown, *(f"warning: {w}" for w in (*plan.warnings, *seen.warnings))]


def document(ready: "Prepared") -> str:
    """`plan --json`."""
    from sd3tune.plan.describe import describe, describe_overview
    from sd3tune.run_overview import overview_of

    seen = overview_of(ready)
    described = describe(ready.plan)
    described["warnings"] += seen.warnings
    return json.dumps(described | describe_overview(seen), indent=1)
