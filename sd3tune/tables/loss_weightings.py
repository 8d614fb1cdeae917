"""The loss weightings (`loss_weighting`): one row each, a factor on the loss of an image that
follows from its noise level.

The equations are code in `sd3tune/sd3/weightings.py`.
"""

from dataclasses import dataclass

from sd3tune.tables.table import Table

WEIGHTINGS = "sd3tune.sd3.weightings"


@dataclass(frozen=True)
class LossWeighting:
    """One loss weighting.

    weight: "module:function" of noise levels s (B,), which answers with factors (B,). equation: as
    docs/concepts/flow.md prints it.
    """

    name: str
    weight: str
    about: str
    equation: str
    aliases: tuple[str, ...] = ()


LOSS_WEIGHTINGS = Table(
    "a loss weighting",
    (
        LossWeighting("none", f"{WEIGHTINGS}:one", "every noise level counts the same", "1"),
        LossWeighting(
            "x0", f"{WEIGHTINGS}:x0",
            "the error of the clean image that follows from the prediction", "s²",
        ),
        LossWeighting(
            "sigma_sqrt", f"{WEIGHTINGS}:sigma_sqrt", "low noise counts most", "1 / s²",
        ),
        LossWeighting(
            "cosmap", f"{WEIGHTINGS}:cosmap", "medium noise counts twice as much as the ends",
            "2 / (π (1 - 2 s + 2 s²))",
        ),
        LossWeighting(
            "x0_cosmap", f"{WEIGHTINGS}:x0_cosmap", "the factors of `x0` and `cosmap`",
            "2 s² / (π (1 - 2 s + 2 s²))",
        ),
    ),
)  # fmt: skip


def markdown() -> str:
    """The table of docs/concepts/flow.md."""
    return "".join(f"| `{row.name}` | {row.equation} |\n" for row in LOSS_WEIGHTINGS.rows)
