"""The learning-rate schedules (`lr_scheduler`): one row each. Names are SimpleTuner's, the curves
are diffusers'.

Where each stands at a step is arithmetic in `sd3tune/plan/learning_rate.py`.
"""

from dataclasses import dataclass

from sd3tune.tables.table import Table


@dataclass(frozen=True)
class LrScheduler:
    """One schedule.

    share: "module:function" of a LearningRate and of the share p, from 0 to 1, of the steps after
    warm-up that are done; it answers with the share of the way from `lr_end` up to the peak.
    equation: as docs/concepts/optimisation.md prints it. warms_up: the rate rises to its peak over
    lr_warmup_steps. falls: it goes down to lr_end.
    """

    name: str
    share: str
    about: str
    equation: str
    warms_up: bool = True
    falls: bool = True
    aliases: tuple[str, ...] = ()


SHARES = "sd3tune.plan.learning_rate"
LR_SCHEDULERS = Table(
    "a learning-rate schedule",
    (
        LrScheduler("constant", f"{SHARES}:whole", "the peak from the first step on", "peak",
                    warms_up=False, falls=False),
        LrScheduler("constant_with_warmup", f"{SHARES}:whole", "the peak", "peak", falls=False),
        LrScheduler("linear", f"{SHARES}:linear", "falls evenly to lr_end",
                    "end + (peak - end) (1 - p)"),
        LrScheduler("polynomial", f"{SHARES}:polynomial", "falls as lr_power says",
                    "end + (peak - end) (1 - p)^`lr_power`"),
        LrScheduler("cosine", f"{SHARES}:cosine", "falls along half a wave",
                    "end + (peak - end) (1 + cos(pi p)) / 2"),
        LrScheduler("cosine_with_restarts", f"{SHARES}:cosine_with_restarts",
                    "falls lr_num_cycles times, and jumps back to the peak between them",
                    "the same with p = `lr_num_cycles` p modulo 1: each cycle starts again at the "
                    "peak"),
    ),
    refused={
        "sine": "is not supported: programs that offer `sine` implement different curves; use "
        "cosine_with_restarts"
    },
)  # fmt: skip


def markdown() -> str:
    """The table of docs/concepts/optimisation.md."""
    return "".join(f"| `{row.name}` | {row.equation} |\n" for row in LR_SCHEDULERS.rows)
