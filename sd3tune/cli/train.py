"""`sd3tune train`: the start of every run. What happens after the plan is shown is in
train/run.py."""

import os
import sys

import click

from sd3tune.cli import plan, publish, train_queue, words
from sd3tune.cli.arguments import CONFIGS_AND_OVERRIDES, prepared
from sd3tune.cli.dashes import settings_command
from sd3tune.cli.finished_lines import finished, finished_lines
from sd3tune.cli.launching import launch_processes
from sd3tune.cli.outcome_lines import outcome_lines
from sd3tune.report import stopping, streams
from sd3tune.report.progress import waiting


@settings_command("train", "Train, and write the result, checkpoints and pictures.")
@CONFIGS_AND_OVERRIDES
@click.option("--dry-run", is_flag=True, help="print the plan and stop")
@click.option(
    "--nproc",
    type=click.IntRange(1),
    metavar="N",
    help="processes on this machine, one for each device (num_processes)",
)
@click.option(
    "--resume",
    metavar="latest|PATH|never",
    help="checkpoint to continue from (resume_from_checkpoint)",
)
def command(
    arguments: tuple[str, ...], dry_run: bool, nproc: int | None, resume: str | None
) -> None:
    """Train as CONFIG says, and write the result, checkpoints and pictures to output_dir.

    CONFIG is config/config.json unless given; several are trained one after the other
    (docs/guides/queue.md). Each KEY=VALUE overrides the files. A run that was
    stopped continues from its newest whole checkpoint, and one that is finished says so; with
    --resume never it starts afresh, and earlier checkpoints are moved aside. Ctrl-C or SIGTERM
    finishes the step, saves and leaves with exit code 130 or 143; a second one stops at once, and
    the last checkpoint stays valid. A terminal that is closed (SIGHUP, 129) does the same, unless
    nohup is before the command. A log that cannot be written any more (`| tee` ended, its disk is
    full) does not end training.

    Only one run at a time can use an output_dir.

    For several devices, use --nproc N, or start this command with torchrun or `accelerate launch
    --multi_gpu`. When a process dies, all processes of the machine restart from the newest
    checkpoint. With several machines, start the command again on each (docs/guides/devices.md).

    \b
      sd3tune train my/config.json max_train_steps=500 learning_rate=5e-5
      sd3tune train my/config.json --nproc 4
      torchrun --nproc-per-node 4 --no-python sd3tune train my/config.json
    """
    from sd3tune.processes.environment import end_with_launcher, processes

    options = {"num_processes": nproc, "resume_from_checkpoint": resume}
    arguments += tuple(f"{key}={value}" for key, value in options.items() if value is not None)
    process = processes(os.environ)
    if train_queue.is_queue(arguments):
        sys.exit(train_queue.train_all(arguments, dry_run=dry_run))
    if dry_run:
        ready = prepared(arguments)
        if process.main:
            words.show(plan.lines(ready))
        return

    streams.outlive()
    stopping.stop_when_told()
    if "WORLD_SIZE" not in os.environ:
        launch_processes(arguments)
    end_with_launcher(os.environ)
    ready = prepared(arguments)
    if (result := finished(ready.plan)) is not None:
        if process.main:
            words.show(finished_lines(ready.plan, result) + publish.caught_up(ready.plan))
        return
    if process.main:
        words.tell(plan.lines(ready))
        publish.check_login(ready.plan)

    with waiting("importing PyTorch"):
        from sd3tune.config.files.prompts import load_prompts
        from sd3tune.train.run import train

    outcome = train(ready, load_prompts(ready.plan.config))
    if process.main:
        words.show(outcome_lines(outcome))
        train_queue.report_outcome(arguments, outcome)
    sys.exit(128 + outcome.signal if outcome.signal else 0)
