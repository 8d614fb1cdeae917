"""The loss of each latent as the settings have it: the distance of loss_type, times the factor of
loss_weighting."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from sd3tune.plan.objective import LossPlan
from sd3tune.sd3 import distances
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.loss_weightings import LOSS_WEIGHTINGS
from sd3tune.tables.table import load


def distance(loss: LossPlan, s: Tensor) -> distances.Distance:
    """The loss of each latent as a function of its error. s: noise levels (B,)."""
    plain = _unweighted(loss, s)
    if loss.weighting == "none":
        return plain
    factor: Callable[[Tensor], Tensor] = load(LOSS_WEIGHTINGS[loss.weighting].weight)
    weight = factor(s).view(-1, 1, 1, 1)
    return lambda d: weight * plain(d)


def _unweighted(loss: LossPlan, s: Tensor) -> distances.Distance:
    row = LOSS_TYPES[loss.kind]
    change: Callable[..., Tensor] = load(row.distance)
    if not row.bends:
        return change
    return partial(change, c=distances.huber_width(s, loss.huber_c, loss.huber_schedule))
