"""The loss types: one row each, the distance between what the network predicts and its target.

The equations are code in `sd3tune/sd3/distances.py`.
"""

from dataclasses import dataclass

from sd3tune.tables.table import Table


@dataclass(frozen=True)
class LossType:
    """One loss type.

    distance: "module:function" of the error d (B, C, H, W); with `bends` also of c (B,), the width
    at which it turns from square to straight (`huber_c`, `huber_schedule`). equation: as
    docs/concepts/flow.md prints it.
    """

    name: str
    distance: str
    about: str
    equation: str
    bends: bool = False
    aliases: tuple[str, ...] = ()


LOSS_TYPES = Table(
    "a loss type",
    (
        LossType("l2", "sd3tune.sd3.distances:l2", "square of the error", "d²"),
        LossType(
            "huber", "sd3tune.sd3.distances:huber", "straight for errors beyond huber_c",
            "2 c (√(d² + c²) - c): d² for small d, 2 c \\|d\\| for large d", bends=True,
        ),
        LossType(
            "smooth_l1", "sd3tune.sd3.distances:smooth_l1",
            "straight for errors beyond huber_c, with a slope that does not depend on huber_c",
            "2 (√(d² + c²) - c): d² / c for small d, 2 \\|d\\| for large d", bends=True,
        ),
    ),
)  # fmt: skip


def markdown() -> str:
    """The table of docs/concepts/flow.md."""
    return "".join(f"| `{row.name}` | {row.equation} |\n" for row in LOSS_TYPES.rows)
