"""What `sd3tune train` says of a run that has ended before, without loading anything."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sd3tune.cli.words import Line
    from sd3tune.plan.plan import Plan


def finished(plan: "Plan") -> "Path | None":
    """The result of the run of this plan, where nothing is left to do."""
    from sd3tune.config.files.prompts import load_prompts
    from sd3tune.data.run_folders import PICTURES, of_step, picture_name
    from sd3tune.formats import finished_run

    steps, drawn = _end(plan), plan.pictures
    folder = plan.output_dir / PICTURES / ("ema" if drawn.weights == "ema_only" else "")
    files = [
        folder / of_step(steps, picture_name(prompt.shortname, index, size, drawn.format))
        for prompt in load_prompts(plan.config)
        for size in drawn.sizes
        for index in range(drawn.per_prompt)
    ]
    if plan.publishing.push.value:
        files.append(plan.output_dir / "README.md")  # what is published has a card
    return finished_run.result(
        plan.output_dir, plan.result.file, steps, plan.checkpoints.resume, files
    )


def finished_lines(plan: "Plan", result: "Path") -> "list[Line]":
    """What a command says that is given again after its run has ended."""
    steps = _end(plan)
    longer = plan.data.steps.source.key or "max_train_steps"
    longer += f"={2 * plan.steps}" if longer == "max_train_steps" else " above what it is"
    if steps < plan.steps and plan.evaluation is not None:
        longer = f"early_stopping_patience above {plan.evaluation.patience}"
    return [
        f"steps            {steps} of {plan.steps}: this run is finished",
        f"result           {result}",
        f"to go on         the same command with {longer}; to start afresh, add `--resume never`",
    ]


def _end(plan: "Plan") -> int:
    """The step at which the run ends, or has ended early."""
    from sd3tune.formats import finished_run

    patience = None if plan.evaluation is None else plan.evaluation.patience
    return finished_run.end(plan.output_dir, plan.steps, patience)
