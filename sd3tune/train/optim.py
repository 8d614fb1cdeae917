"""Optimizers by the names of the vocabulary, and the learning rate as a function of the step.

Every optimizer comes from a maintained library; whether it works here was decided in the plan.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sd3tune.errors import ConfigError

WEIGHT_DECAY = 0.01


def build(
    name: str, parameters: Sequence[nn.Parameter], lr: float, options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """options: keyword arguments of the optimizer's class, from `optimizer_config`.

    Raises ConfigError for an option the class does not have.
    """
    kind, fixed = _kind(name)
    known = set(inspect.signature(kind).parameters) - {"params", "lr"}
    options = dict(options)
    if "betas" in options and "beta1" in known:  # optimi has two names for the pair
        options["beta1"], options["beta2"] = options.pop("betas")
    for option in options:
        if option not in known:
            raise ConfigError(
                f"`optimizer_config`: {name} has no option `{option}`",
                hint=f"it has {', '.join(sorted(known))}",
            )
    defaults = {"weight_decay": WEIGHT_DECAY} if "weight_decay" in known else {}
    optimizer: torch.optim.Optimizer = kind(parameters, lr=lr, **(defaults | fixed | options))
    return optimizer


def _kind(name: str) -> tuple[Any, dict[str, Any]]:
    """The class behind a name, and the arguments that make it that optimizer."""
    if name == "adamw":
        return torch.optim.AdamW, {}
    if name.startswith("bnb-"):
        import bitsandbytes.optim as bnb

        table = {
            "bnb-adamw8bit": bnb.AdamW8bit,
            "bnb-adamw8bit-paged": bnb.PagedAdamW8bit,
            "bnb-lion8bit": bnb.Lion8bit,
            "bnb-lion8bit-paged": bnb.PagedLion8bit,
        }
        return table[name], {}
    import optimi

    return {
        # Kahan summation keeps what bf16 rounding would lose; plain AdamW in bf16 stands still.
        "adamw_bf16": (optimi.AdamW, {"kahan_sum": True}),
        "optimi-adamw": (optimi.AdamW, {}),
        "optimi-stableadamw": (optimi.StableAdamW, {}),
        "optimi-lion": (optimi.Lion, {}),
    }[name]


def rate(schedule: str, step: int, *, peak: float, end: float, warmup: int, total: int) -> float:
    """Learning rate of the update that follows `step` finished ones (step 0 is the first).

    Warm-up rises linearly and reaches `peak` at step `warmup`; `constant` has none. Decays run from
    there to `end` at step `total`.
    """
    if schedule == "constant":
        return peak
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "linear":
        return end + (peak - end) * (1 - done)
    if schedule == "cosine":
        return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * done))
    return peak  # constant_with_warmup


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
