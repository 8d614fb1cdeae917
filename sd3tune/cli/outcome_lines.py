"""What a run left behind, in a terminal."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd3tune.cli.words import Line
    from sd3tune.train.outcome import Outcome


def outcome_lines(outcome: "Outcome") -> "list[Line]":
    """Losses, files and the digest of the noise."""
    shown: list[Line] = [f"steps            {outcome.step} of {outcome.steps}"]
    if outcome.ending.early:
        shown.append(
            f"ended early      {outcome.ending.early}; the result is of step {outcome.step}"
        )
    if outcome.loss_after is not None and outcome.loss_before is not None:
        change = outcome.loss_after / outcome.loss_before - 1
        shown.append(
            f"evaluation loss  {outcome.loss_before:.4f} before, {outcome.loss_after:.4f} after "
            f"({change:+.1%}), same images and noise"
        )
    if outcome.adapter:
        shown.append(f"result           {outcome.adapter}")
    if outcome.ending.best is not None:
        shown.append(f"best             {outcome.ending.best}")
    shown += [f"picture          {path}" for path in outcome.pictures]
    if outcome.sheet:
        shown.append(f"before, after    {outcome.sheet}")
    shown.append(f"noise            {outcome.noise:016x}  (of all that was drawn; compares runs)")
    shown.append(f"output           {outcome.output}")
    return [*shown, f"watch            sd3tune watch {shlex.quote(str(outcome.output))}"]
