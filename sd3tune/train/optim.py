"""Optimizers by the names of the vocabulary: one table, every class but one from a library.

Whether a name works here was decided in the plan, and what may be set in config/optimizers.py.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

TORCH, OPTIMI, COLLECTION = "torch.optim", "optimi", "pytorch_optimizer"
BNB, TORCHAO = "bitsandbytes.optim", "torchao.optim"
# Decay is 0.01 wherever it shrinks the weights themselves; the rest is the libraries' own default.
DECAYED = {"weight_decay": 0.01}

# Name -> library, class, arguments that make it that optimizer.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adamw": (TORCH, "AdamW", DECAYED),
    "adamw_bf16": ("sd3tune.train.adamw_bf16", "AdamWBF16", DECAYED),
    "torch-adam": (TORCH, "Adam", {}),
    "torch-sgd": (TORCH, "SGD", {}),
    "torch-radam": (TORCH, "RAdam", {}),
    "torch-nadam": (TORCH, "NAdam", {}),
    "torch-rmsprop": (TORCH, "RMSprop", {}),
    "torch-adagrad": (TORCH, "Adagrad", {}),
    "torch-adadelta": (TORCH, "Adadelta", {}),
    "torch-adafactor": (TORCH, "Adafactor", {}),
    "torch-adamax": (TORCH, "Adamax", {}),
    "torch-asgd": (TORCH, "ASGD", {}),
    "optimi-stableadamw": (OPTIMI, "StableAdamW", DECAYED),
    "optimi-adamw": (OPTIMI, "AdamW", DECAYED),
    "optimi-lion": (OPTIMI, "Lion", DECAYED),
    "optimi-radam": (OPTIMI, "RAdam", {}),
    "optimi-ranger": (OPTIMI, "Ranger", {}),
    "optimi-adan": (OPTIMI, "Adan", {}),
    "optimi-adam": (OPTIMI, "Adam", {}),
    "optimi-sgd": (OPTIMI, "SGD", {}),
    "prodigy": (COLLECTION, "Prodigy", {}),
    "adamw_schedulefree": (COLLECTION, "ScheduleFreeAdamW", {}),
    # Eigenbases of wide sides would be larger than the model: an adapter's rank is rotated only.
    "soap": (COLLECTION, "SOAP", DECAYED | {"max_precondition_dim": 256}),
    "bnb-adagrad": (BNB, "Adagrad", {}),
    "bnb-adagrad8bit": (BNB, "Adagrad8bit", {}),
    **{
        f"bnb-{name}{bits}{'-paged' if paged else ''}": (BNB, f"{paged}{kind}{bits}", fixed)
        for name, kind, fixed in (("adam", "Adam", {}), ("adamw", "AdamW", DECAYED),
                                  ("lion", "Lion", DECAYED), ("ademamix", "AdEMAMix", DECAYED))
        for bits in ("", "8bit")
        for paged in ("", "Paged")
    },
    "ao-adamw8bit": (TORCHAO, "AdamW8bit", DECAYED),
    "ao-adamw4bit": (TORCHAO, "AdamW4bit", DECAYED),
    "ao-adamfp8": (TORCHAO, "AdamFp8", {}),
    "ao-adamwfp8": (TORCHAO, "AdamWFp8", DECAYED),
}  # fmt: skip


def build(
    name: str,
    parameters: Sequence[nn.Parameter],
    lr: float,
    options: Mapping[str, Any],
    *,
    gradients: str = "unmodified",
) -> torch.optim.Optimizer:
    """options: `Config.optimizer_options`. gradients: `gradient_precision`, the format in which the
    gradients of accumulated batches are added up."""
    kind, fixed = _kind(name)
    arguments = _with_betas(kind, fixed | dict(options))
    patience = arguments.pop("prodigy_steps", None)
    if gradients == "fp32":
        for p in parameters:
            p.grad_dtype = torch.float32
    optimizer: torch.optim.Optimizer = kind(parameters, lr=lr, **arguments)
    if patience is not None:
        optimizer.register_step_pre_hook(lambda o, *_: _keep_step_size(o, patience))
    if name.startswith("ao-"):
        _without_compiling(optimizer)
    return optimizer


def _kind(name: str) -> tuple[Any, dict[str, Any]]:
    library, kind, fixed = KINDS[name]
    return getattr(import_module(library), kind), fixed


def _with_betas(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`beta1` and `beta2` as the tuple libraries take, the others of it at their default."""
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
