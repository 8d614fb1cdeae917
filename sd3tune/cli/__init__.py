"""The command line: each command parses, calls one function and prints; a module for each, named as
the command. Nothing is decided here.

Logs go to stderr, data to stdout. Exit codes: 0 done, 1 the user or the machine has to change
something, 2 a bug in sd3tune, 75 another process of the run is gone, 129, 130 and 143 stopped by
SIGHUP, SIGINT and SIGTERM after saving, if there was anything to save.
"""

import os
import sys

import click

from sd3tune import __version__, escaping
from sd3tune.cli import (
    cache,
    cloud,
    config,
    configure,
    dataset,
    demo,
    doctor,
    export,
    image,
    inspect,
    plan,
    publish,
    reproduce,
    sample,
    surroundings,
    train,
    verbosity,
    watch,
    words,
)
from sd3tune.cli.failures import show_failure
from sd3tune.escaping import ReaderGone, echo
from sd3tune.report import messages, stopping, streams

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class InOrderOfUse(click.Group):
    """Lists its commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, as they were added."""
        return list(self.commands)


@click.group(cls=InOrderOfUse, context_settings=HELP)
@click.version_option(__version__, prog_name="sd3tune")
@click.pass_context
def cli(context: click.Context) -> None:
    """Fine-tune Stable Diffusion 3 and 3.5 on NVIDIA, AMD and Apple hardware, or on a CPU.

    \b
    First time here?
      sd3tune doctor                          can this machine train?
      sd3tune demo DIR                        a small model, pictures, settings
      sd3tune dataset DIR/config/config.json  how images and captions are read
      sd3tune train DIR/config/config.json    a first run, in minutes on a CPU
    """
    surroundings.find_working_directory(context.invoked_subcommand)


COMMANDS = (
    doctor, demo, configure, config, dataset, plan, train, watch, sample, reproduce, inspect,
    export, publish, cache, image, cloud,
)  # fmt: skip
for module in COMMANDS:
    cli.add_command(module.command)
verbosity.add_options(cli)


def main() -> None:
    """Runs the command of sys.argv and ends the process with its exit code."""
    # pydantic would read what is installed, to find extensions of itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    streams.open_closed()
    escaping.prepare()
    messages.set_verbosity("normal")
    try:
        _run_command()
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.exceptions.NoArgsIsHelpError as e:  # `sd3tune` or `sd3tune cache` alone
        echo(e.format_message())
    except click.ClickException as e:
        words.show_error(e.format_message(), f"`{_help_command(e)}` lists what there is")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        words.show_error("interrupted", "what was finished is kept; the same command continues")
        sys.exit(130)
    except stopping.Stopped as e:
        sys.exit(e.exit_code)
    except ReaderGone:  # `sd3tune plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still holds
        sys.exit(0)
    except Exception as e:
        sys.exit(show_failure(e))


def _run_command() -> None:
    """Raises what the command raises; after a signal, Stopped in place of every error."""
    try:
        cli(prog_name="sd3tune", standalone_mode=False)
    except Exception:
        if stopped := stopping.received():
            raise stopped from None
        raise


def _help_command(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)  # only usage errors know where they happened
    return f"{context.command_path if context else 'sd3tune'} --help"


if __name__ == "__main__":
    main()
