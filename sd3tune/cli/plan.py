"""`sd3tune plan`: what a run would do, need and refuse."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import overview_lines, words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, JSON, prepared
from sd3tune.cli.dashes import settings_command
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.card_comparison import Prices
    from sd3tune.plan.overview import Overview
    from sd3tune.plan.plan import Plan
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
@click.option(
    "--count", "counted", is_flag=True,
    help="count the memory of each stage under fake tensors: 10 to 60 s, kept for the next time",
)  # fmt: skip
@click.option(
    "--compare", "cards", is_flag=False, flag_value="", metavar="[CARDS]",
    help="one line for each card of the catalogue, or of CARDS, with commas",
)  # fmt: skip
@click.option(
    "--price", "prices", multiple=True, metavar="CARD=PRICE",
    help="money for an hour of one card; once for each card",
)  # fmt: skip
def command(
    arguments: tuple[str, ...],
    as_json: bool,
    chip: str | None,
    cards: str | None,
    prices: tuple[str, ...],
    counted: bool,
) -> None:
    """Show what a run would do, need and refuse, before any weight is loaded or money spent.

    CONFIG is config/config.json unless given. Each KEY=VALUE overrides the file.

    \b
      sd3tune plan
      sd3tune plan my/config.json lora_rank=64 --on mi300x
      sd3tune plan my/config.json --on rented.json
      sd3tune plan my/config.json --compare rtx4090,l40s,h100 --price h100=2.49
    """
    if cards is not None:
        if cards and ("=" in cards or Path(cards).exists()):  # `--compare my/config.json`
            arguments, cards = (cards, *arguments), ""
        compare(arguments, cards, prices, as_json=as_json, chip=chip)
        return
    if chip == "list":
        from sd3tune.cli import catalogue_lines

        if as_json:
            echo(words.document("plan", catalogue_lines.document()))
        else:
            words.show(catalogue_lines.catalogue_lines())
        return
    from sd3tune.card_comparison import prices_of

    known = prices_of(prices)
    ready = prepared(arguments, chip)
    if counted:
        count_stages(ready)
    price = price_of(ready, known)
    echo(document(ready, price)) if as_json else words.show(lines(ready, price))


def compare(
    arguments: tuple[str, ...],
    cards: str,
    prices: tuple[str, ...],
    *,
    as_json: bool,
    chip: str | None,
) -> None:
    """`plan --compare`."""
    from sd3tune.card_comparison import asked_for
    from sd3tune.cli import comparison_lines
    from sd3tune.cli.compared_cards import compared_cards
    from sd3tune.errors import ConfigError

    if chip is not None:
        raise ConfigError(
            "--on and --compare exclude each other",
            hint=f"write --compare {chip}, or leave one out",
        )
    compared = compared_cards(arguments, *asked_for(cards, prices))
    if as_json:
        echo(words.document("plan", comparison_lines.document(compared)))
    else:
        words.show(comparison_lines.comparison_lines(compared))


def count_stages(ready: "Prepared") -> None:
    """Counts the memory of each stage, so that the plan shows it; warnings say what could not be
    counted."""
    from sd3tune.counted.counting import count
    from sd3tune.report.progress import warn
    from sd3tune.run_overview import overview_of

    stages = overview_of(ready).stages
    counted = count(ready.plan.model.transformer, [stage.load for stage in stages])
    for stage, one in zip(stages, counted, strict=True):
        if one.peak is None:
            warn(f"the memory of {stage.name} was not counted: {one.why}")


def price_of(ready: "Prepared", prices: "Prices") -> float | None:
    """Of an hour of all cards of the run; None where none is given. Raises ConfigError for prices
    of other cards."""
    from sd3tune.backends.decide.chips import of_device
    from sd3tune.errors import ConfigError

    if not prices:
        return None
    here = of_device(ready.plan.facts.tightest.name)
    if here is None or prices.keys() != {here.key}:
        name = ready.plan.facts.tightest.name if here is None else here.key
        others = ", ".join(key for key in prices if here is None or key != here.key)
        raise ConfigError(
            f"--price: this plan is for {name}, not for {others}",
            hint="--on CARD plans for another card, --compare for several",
        )
    return prices[here.key] * ready.plan.processes.size


def lines(ready: "Prepared", price: float | None = None) -> list[words.Line]:
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
        overview_lines.time(seen, price),
        overview_lines.disk(seen),
    )
    shown = [line for i, part in enumerate(parts) for line in ([""] if i and part else []) + part]
    return [*shown, *(f"warning: {w}" for w in (*plan.warnings, *seen.warnings))]


def predicted(plan: "Plan", seen: "Overview") -> dict[str, Any]:
    """The best prediction of what the run takes of the device, as JSON: counted where a stage of
    this load has been counted, otherwise by the formula. peak_bytes: of training."""
    from sd3tune.counted.counting import kept
    from sd3tune.plan.stage_loads import TRAINING

    stages, workspace = {}, plan.memory.estimate.workspace
    for stage in seen.stages:
        counted = kept(plan.model.transformer, stage.load)
        stages[stage.name] = {
            "peak_bytes": stage.by_formula if counted is None else counted + workspace,
            "predicted": "by formula" if counted is None else "counted",
            "by_formula_bytes": stage.by_formula,
        }
    training = stages[TRAINING]
    return {
        "peak_bytes": training["peak_bytes"],
        "predicted": training["predicted"],
        "stages": stages,
    }


def document(ready: "Prepared", price: float | None = None) -> str:
    """`plan --json`."""
    from sd3tune.plan.describe import describe, describe_overview
    from sd3tune.run_overview import overview_of

    seen = overview_of(ready)
    described = describe(ready.plan)
    described["warnings"] += seen.warnings
    described |= describe_overview(seen)
    described["memory"] |= predicted(ready.plan, seen)
    if price is not None and seen.time is not None:
        described["cost"] = {"price_per_hour": price, "total": round(seen.time.cost(price), 4)}
    return json.dumps(described, indent=1)
