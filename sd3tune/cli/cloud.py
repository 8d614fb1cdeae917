"""`sd3tune cloud`: specifications of a run for programs that start it on other machines."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import CONFIG_AND_OVERRIDES, config_of, prepared
from sd3tune.cli.dashes import SettingsAsOptions
from sd3tune.errors import ConfigError
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sd3tune.card_comparison import CardAnswer
    from sd3tune.cloud.engine_row import Choices, Engine


@click.group("cloud", short_help="Specifications for SkyPilot, dstack, Kubernetes, Ray and others.")
def command() -> None:
    """Write specifications of a run for programs that start it on other machines."""


@command.command(cls=SettingsAsOptions, short_help="Write the specification of a run.")
@click.argument("engine_name", metavar="ENGINE")
@CONFIG_AND_OVERRIDES
@click.option("--card", metavar="NAME", help="a card of `sd3tune plan --on list`")
@click.option("--cheapest", is_flag=True,
              help="not --card, but of those with a --price the cheapest run")  # fmt: skip
@click.option("--price", "prices", multiple=True, metavar="CARD=PRICE",
              help="with --cheapest: money for an hour of a card; once for each")  # fmt: skip
@click.option("--image", metavar="TAG", help="your image in a registry; `sd3tune image build`")
@click.option("--store", metavar="NAME",
              help="bucket (sky) or volume that outlives the machine")  # fmt: skip
@click.option("--queue", metavar="NAME", help="the queue of Kueue (kueue, kubeflow)")
@click.option("--on-demand", is_flag=True, help="no spot machines (sky, dstack)")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="a new file; left out: stdout")  # fmt: skip
def write(
    engine_name: str,
    arguments: tuple[str, ...],
    **said: Any,
) -> None:
    """Write how ENGINE starts the run of CONFIG on a card: sky, dstack, kubernetes, kueue, kubeflow
    or ray.

    The plan for the card decides whether the run fits, and how much host memory and disk it gets.
    num_processes is the number of cards. A run that lost its machine continues from its newest
    checkpoint. The head of the file says what it assumes. No secret is written.

    \b
      sd3tune cloud write sky my/config/config.json --card a100 -o sky.yaml
      sd3tune cloud write dstack my/config/config.json --card mi300x
      sd3tune cloud write kueue my/config/config.json --card h100 --queue team
      sd3tune cloud write sky --cheapest --price h100=2.49 --price l40s=0.86
    """
    from sd3tune.cloud.engine_row import Choices

    engine, output = engine_of(engine_name), said["output"]
    choices = Choices(said["store"], said["queue"], said["on_demand"])
    if output is not None and output.exists():
        raise ConfigError(
            f"`{output}` exists, and is not written over",
            hint="remove it, or name another file with -o",
        )
    card = card_of(arguments, said["card"], said["prices"], cheapest=said["cheapest"])
    text = written(engine, arguments, card, said["image"], choices, output)
    if output is None:
        echo(text.rstrip("\n"))
        return
    from sd3tune.filesystem import drafts

    drafts.write(output, text.encode())
    words.tell([f"written {output}"])


def card_of(
    arguments: tuple[str, ...],
    card: str | None,
    prices: tuple[str, ...],
    *,
    cheapest: bool,
) -> str:
    """The card that the user named, or the one where the run costs least; says which and why.
    Raises Sd3tuneError."""
    from sd3tune.backends.decide.chips import chip
    from sd3tune.card_comparison import cheapest as cheapest_of
    from sd3tune.card_comparison import prices_of
    from sd3tune.cli.compared_cards import compared_cards

    if cheapest == (card is not None):
        raise ConfigError("name a card, or ask for the cheapest", hint="--card NAME or --cheapest")
    if card is not None and prices:
        raise ConfigError("--price does nothing with --card", hint="leave one of them out")
    if card is not None:
        return card
    if not prices:
        raise ConfigError(
            "--cheapest needs prices", hint="--price CARD=PRICE for each card that may be taken"
        )
    known = prices_of(prices)
    answers = compared_cards(arguments, [chip(key) for key in known], known)
    words.tell(cost_lines(answers))
    return cheapest_of(answers).chip.key


def cost_lines(answers: "Sequence[CardAnswer]") -> list[words.Line]:
    """What the run costs on each card, the cheapest first."""
    from sd3tune.plan.duration import clock

    lines: list[words.Line] = []
    for each in answers:
        if each.cost is None or each.price is None:
            lines.append(f"{each.chip.key}: {each.why or 'its time is unknown'}")
            continue
        cost = f"{each.cost:.2f}: {clock(each.seconds)} at {each.price:g} an hour, estimated"
        lines.append(f"{each.chip.key}: {'' if lines else 'taken, the cheapest: '}{cost}")
    return lines


def written(
    engine: "Engine",
    arguments: tuple[str, ...],
    card: str,
    image: str | None,
    choices: "Choices",
    output: Path | None,
) -> str:
    """The specification. Raises Sd3tuneError."""
    from sd3tune.backends.decide.chips import chip
    from sd3tune.cloud.cloud_job import job_of
    from sd3tune.cloud.specification import refuse_choices, specification
    from sd3tune.run_overview import overview_of

    named = chip(card)
    refuse_choices(engine, choices)
    config, overrides = config_of(arguments)
    ready = prepared(arguments, card)
    job = job_of(ready, overview_of(ready), named, config, overrides)
    if image is not None:
        job = replace(job, image=image)
    return specification(engine, job, choices, str(output or f"{engine.name}.yaml"))


def engine_of(name: str) -> "Engine":
    """The engine of that name. Raises ConfigError."""
    from sd3tune.cloud.engines import ENGINES

    if name in ENGINES:
        return ENGINES[name]
    why = ENGINES.refused.get(name, "is not an engine")
    raise ConfigError(f"`{name}` {why}", hint=f"there is {', '.join(ENGINES)}")
