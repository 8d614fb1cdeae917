"""Builds the optimizer that the plan names, from its row in `sd3tune/tables/optimizers.py`.

Every class but one is a library's. Whether it works on this machine was decided in the plan.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sd3tune.backends.kernels.fused import has_fused_kernel
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.table import load
from sd3tune.train.optim_state import FUSED


def build(
    name: str,
    parameters: Sequence[nn.Parameter],
    lr: float,
    options: Mapping[str, Any],
    *,
    gradients: str = "unmodified",
) -> torch.optim.Optimizer:
    """The optimizer of that name over the parameters.

    lr: the first learning rate. options: as `Config.optimizer_options`. gradients:
    `gradient_precision`, the format in which the gradients of accumulated batches are added up.
    """
    row = OPTIMIZERS[name]
    kind = load(row.build)
    arguments = _with_betas(kind, {**row.fixed, **options})
    patience = arguments.pop("prodigy_steps", None)
    if gradients == "fp32":
        for p in parameters:
            p.grad_dtype = torch.float32
    optimizer = _fused(kind, parameters, {"lr": lr, **arguments})
    if patience is not None:
        optimizer.register_step_pre_hook(lambda o, *_: _keep_step_size(o, patience))
    if row.compiles:
        _without_compiling(optimizer)
    return optimizer


def _fused(
    kind: Any, parameters: Sequence[nn.Parameter], arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer with one kernel for all weights, where its class and the device have one: on a
    CPU 3 to 4 times as fast as a loop, within 2e-7 of it after 30 steps. Whether the kernel is
    right on a device is a probe (`optimizer_adamw`)."""
    if all(has_fused_kernel(kind, parameter) for parameter in parameters):
        arguments = {**arguments, FUSED: True}
    return cast("torch.optim.Optimizer", kind(parameters, **arguments))


def _with_betas(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`beta1` and `beta2` as the tuple `betas`, where the library takes one. What is not set, and
    every beta after the second, is the library's default."""
    known = inspect.signature(kind).parameters
    if "betas" not in known:
        return options
    default = known["betas"].default
    pair = options.pop("beta1", default[0]), options.pop("beta2", default[1])
    return options | {"betas": (*pair, *default[2:])}


def _keep_step_size(optimizer: torch.optim.Optimizer, patience: int) -> None:
    """Prodigy's d grows by at most growth_rate a step: 1 holds it."""
    for group in optimizer.param_groups:
        if group["step"] > patience:  # Prodigy counts from 1
            group["growth_rate"] = 1.0


def _without_compiling(optimizer: Any) -> None:
    """torchao compiles each step, which needs a C++ compiler or Triton and half a minute; run
    eagerly it gives the same numbers."""
    step = optimizer.step

    def eager(closure: Any = None) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return step(closure)

    optimizer.step = eager


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The weights to look at or to give away: of an averaging optimizer the average of the path, of
    any other the weights themselves. Afterwards the trained ones are back, bit for bit.

    Schedule-free learning (arXiv:2405.15682) evaluates at x and differentiates at y; ASGD keeps its
    average beside the weights.
    """
    groups = [g for g in optimizer.param_groups if g.get("train_mode")]
    path = [p for p in optimizer.state if "ax" in optimizer.state[p]]
    trained = [(p, p.detach().clone()) for p in [*path, *(p for g in groups for p in g["params"])]]
    if groups:
        cast("Any", optimizer).eval()
    for p in path:
        p.data.copy_(optimizer.state[p]["ax"])
    try:
        yield
    finally:
        for p, y in trained:
            p.data.copy_(y)
        for g in groups:
            g["train_mode"] = True
