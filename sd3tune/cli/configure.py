"""`sd3tune configure`: questions about a run, and the files that follow from the answers."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import overview_lines, words
from sd3tune.cli.arguments import CONFIG

if TYPE_CHECKING:
    from sd3tune.configure.draft import PlannedDraft
    from sd3tune.configure.session import Session


@click.command("configure", short_help="Questions, and the files of a run that fits.")
@click.argument("config", default=CONFIG, type=click.Path(path_type=Path), metavar="[CONFIG]")
@click.option("--dataset", metavar="DIR", help="the folder of images")
@click.option("--model", metavar="NAME", help="a folder, a file, a repository, medium or large")
@click.option(
    "--from", "preset_names", multiple=True, metavar="PRESET",
    help="take a preset; one by memory and one by purpose go together",
)  # fmt: skip
@click.option(
    "--set", "words", multiple=True, metavar="KEY=VALUE",
    help="a setting of the run or of the dataset, which wins over every answer",
)  # fmt: skip
@click.option("--on", "chip", metavar="NAME", help="for another machine, as in `sd3tune plan --on`")
@click.option("--yes", is_flag=True, help="ask nothing: options, and defaults for the rest")
@click.option("--force", is_flag=True, help="with --yes: replace files that exist")
@click.option("--presets", "listing", is_flag=True, help="list the presets, and stop")
def command(config: Path, yes: bool, force: bool, listing: bool, **said: Any) -> None:
    """Ask at most eight questions, show what each answer costs, and write the files of a run.

    CONFIG is config/config.json unless given; datasets and prompts are written beside it. Nothing
    is written before you have seen the plan, and nothing is replaced without a question.

    \b
      sd3tune configure
      sd3tune configure --dataset photos --from 12gb --from subject
      sd3tune configure --yes --dataset photos --set lora_rank=32
      sd3tune configure --on mi300x my/config/config.json
    """
    from sd3tune.configure import session, terminal

    if listing:
        words.show(preset_lines())
        return
    if not yes:
        terminal.refuse_without_terminal()
    with tempfile.TemporaryDirectory(prefix="sd3tune-configure-") as scratch:
        begun = session.begin(session.Options(config, **said), Path(scratch))
        answers = _defaults(begun, force) if yes else _asked(begun)
        if answers is None:
            words.show(["nothing was written"])
            return
        written = begun.write(answers)
    words.show([*(f"wrote  {path}" for path in written), "", f"next   sd3tune train {config}"])


def _defaults(begun: "Session", force: bool) -> dict[str, str]:
    """Shows the plan, and asks nothing."""
    answers = begun.defaults()
    if not force:
        begun.refuse_existing(answers)
    words.show(summary(begun.judge(answers)))
    return answers


def _asked(begun: "Session") -> dict[str, str] | None:
    """None: the user has left."""
    from sd3tune.backends.decide import speeds
    from sd3tune.configure.costs import ESTIMATED, NO_RATE
    from sd3tune.configure.interview import Left, Talk
    from sd3tune.configure.terminal import Terminal

    seen = begun.known.here
    known = speeds.speed(seen.facts) is not None or seen.facts.origin == "measured"
    words.show([f"A run for {seen.facts.tightest.name}", ESTIMATED if known else NO_RATE])
    talk = Talk(Terminal().ask, words.show, summary, begun.judge)
    try:
        return begun.asked(talk)
    except (Left, EOFError, KeyboardInterrupt):
        return None


def summary(draft: "PlannedDraft") -> list[words.Line]:
    """Whether it fits, and what the run amounts to."""
    from sd3tune.configure.costs import cost

    plan, seen = draft.prepared.plan, draft.overview
    parts = (
        overview_lines.data(seen, plan.steps),
        overview_lines.pictures(seen, plan.pictures),
        overview_lines.memory(plan, seen),
        overview_lines.disk(seen),
    )
    shown: list[words.Line] = [f"the run fits {plan.facts.tightest.name}: {cost(draft)}"]
    shown += [line for part in parts for line in part]
    if draft.enlarged:
        small = f"{draft.enlarged} of {len(draft.prepared.samples)} images are smaller than the "
        shown.append(f"warning: {small}size they are trained at, and are enlarged")
    return [*shown, *(f"warning: {w}" for w in (*plan.warnings, *seen.warnings))]


def preset_lines() -> list[words.Line]:
    """Every preset: its name, its kind, and what it is for."""
    from sd3tune.tables.presets import PRESETS

    lines: list[words.Line] = []
    for row in PRESETS.rows:
        settings = ", ".join(f"{k}={json.dumps(v)}" for k, v in row.settings.items())
        lines.append(f"{row.name:<13}by {row.kind:<8}{row.about}")
        lines.append(f"             {settings}")
        for model, more in row.of_model.items():
            said = ", ".join(f"{k}={json.dumps(v)}" for k, v in more.items())
            lines.append(f"             {model}: {said}")
    return lines
