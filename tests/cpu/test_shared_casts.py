"""LoRA's weights in autocast's format: cast once a step, with the same bits."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune.adapters.shared_casts import cast_once, sharing
from sd3tune.plan.block_keeping import Keep
from sd3tune.sd3.condition import autocast
from sd3tune.train.checkpointing import keep_in_blocks
from tests.cpu.adapted import model_of, question

BF16, CPU = torch.bfloat16, torch.device("cpu")


class Casts(TorchDispatchMode):
    """Casts of float32 matrices at these addresses."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights, self.count = weights, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.count += args[0].data_ptr() in self.weights
        return func(*args, **(kwargs or {}))


def step(model: Any, around: AbstractContextManager[None]) -> tuple[int, list[Tensor]]:
    """Casts of LoRA's weights in a step of two batches, and its losses and gradients; dropout from
    one seed."""
    torch.manual_seed(5)
    weights = [p for p in model.parameters() if p.requires_grad]
    losses = []
    with Casts({p.data_ptr() for p in weights}) as casts, around:
        for _ in range(2):
            with autocast(CPU, BF16):
                loss = model(**question(1))[0].float().square().mean()
            loss.backward()
            losses.append(loss.detach())
    return casts.count, [*losses, *(p.grad for p in weights if p.grad is not None)]


@pytest.mark.parametrize(
    "keep, scheme",
    [("inputs", "int8-quanto"), ("attention", "no_change"), ("everything", "no_change")],
)
def test_a_step_casts_each_weight_once_and_changes_no_bit(keep: Keep, scheme: str) -> None:
    """With dropout, two batches a step, and two steps: the weights change between them."""
    plain, ours = model_of(scheme), model_of(scheme)
    factors = sharing(ours, "default")
    for model in (plain, ours):
        keep_in_blocks(model, [keep] * 3)
    for _ in range(2):
        before, wanted = step(plain, nullcontext())
        after, found = step(ours, cast_once(factors, BF16))
        assert len(found) > 20 and all(map(torch.equal, found, wanted))
        assert after == len(factors) and before == after * (2 if keep == "everything" else 4)
        for model in (plain, ours):
            with torch.no_grad():
                for parameter in (p for p in model.parameters() if p.grad is not None):
                    parameter.sub_(parameter.grad, alpha=0.1)


def test_outside_a_step_the_weights_themselves_are_used() -> None:
    """A moving average is put in their place for evaluation, and files are written from them."""
    plain, ours = model_of().eval(), model_of().eval()
    factors = sharing(ours, "default")
    with cast_once(factors, BF16):
        pass
    with torch.no_grad(), autocast(CPU, BF16):
        for model in (plain, ours):
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.mul_(2)
        assert torch.equal(ours(**question(1))[0], plain(**question(1))[0])
    assert list(ours.state_dict()) == list(plain.state_dict())
