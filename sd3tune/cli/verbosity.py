"""`-v` and `-q`, before and after the name of every command."""

import click

from sd3tune.report import messages
from sd3tune.report.messages import Verbosity


def add_options(command: click.Command) -> None:
    """Adds both options to a command, and to every command below it."""
    command.params += (
        _option("-v", "--verbose", "verbose", "more detail: files that are read, settings that "
                "override them, warnings of libraries"),
        _option("-q", "--quiet", "quiet", "only warnings, errors and the result"),
    )  # fmt: skip
    if isinstance(command, click.Group):
        for below in command.commands.values():
            add_options(below)


def _option(short: str, long: str, verbosity: Verbosity, help: str) -> click.Option:
    def choose(context: click.Context, _: click.Parameter, given: bool) -> None:
        if not given:
            return
        if context.meta.setdefault("verbosity", verbosity) != verbosity:
            raise click.UsageError("-v and -q contradict each other: leave out one of them")
        messages.set_verbosity(verbosity)

    return click.Option(
        [short, long], is_flag=True, is_eager=True, expose_value=False, callback=choose, help=help
    )
