"""What `sd3tune train` says of a run that has ended before, without loading anything."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sd3tune.cli.words import Line
    from sd3tune.plan.plan import Plan


def finished(plan: "Plan") -> "Path | None":
    """The result of the run of this plan, where nothing is left to do."""
    from sd3tune.config.files.prompts import load_prompts
    from sd3tune.data.run_folders import PICTURES, picture_name
    from sd3tune.formats import finished_run

    drawn = plan.pictures
    folder = plan.output_dir / PICTURES / ("ema" if drawn.weights == "ema_only" else "")
    files = [
        folder / picture_name(prompt.shortname, index, size, plan.steps)
        for prompt in load_prompts(plan.config)
        for size in drawn.sizes
        for index in range(drawn.per_prompt)
    ]
    if plan.publishing.push.value:
        files.append(plan.output_dir / "README.md")  # what is published has a card
    return finished_run.result(
        plan.output_dir, plan.result.file, plan.steps, plan.checkpoints.resume, files
    )


def finished_lines(plan: "Plan", result: "Path") -> "list[Line]":
    """What a command says that is given again after its run has ended."""
    longer = plan.data.steps.source.key or "max_train_steps"
    longer += f"={2 * plan.steps}" if longer == "max_train_steps" else " above what it is"
    return [
        f"steps            {plan.steps} of {plan.steps}: this run is finished",
        f"result           {result}",
        f"to go on         the same command with {longer}; to start afresh, add `--resume never`",
    ]
