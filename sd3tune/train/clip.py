"""Gradients kept in bounds before the update."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sd3tune.adapters.trained import whole


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm () of all values of the tensors together."""
    with torch.no_grad():
        return whole(nn.utils.get_total_norm(tensors))


def clip(parameters: Sequence[nn.Parameter], limit: float, method: str) -> Tensor:
    """The gradients' norm () as it was. Longer ones are scaled to `limit` (`norm`), or each number
    is cut at ±limit (`value`); limit 0 leaves them."""
    norm = nn.utils.clip_grad_norm_(parameters, limit if limit and method == "norm" else torch.inf)
    if limit and method == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    return whole(norm)  # of gradients that are split over processes, a part
