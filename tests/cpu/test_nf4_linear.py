"""The linear layer of nf4 weights beside bitsandbytes' own."""

from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn

from sd3tune import quant
from sd3tune.quant.nf4_linear import Nf4Linear


@pytest.fixture
def layer() -> Any:
    torch.manual_seed(0)
    model = nn.ModuleDict({"transformer_blocks": nn.ModuleDict({"ff": nn.Linear(128, 192)})})
    quant.apply(model.to(torch.bfloat16).requires_grad_(False), "nf4-bnb")
    return model["transformer_blocks"]["ff"]  # type: ignore[index]


def theirs(layer: Any, x: Tensor) -> Tensor:
    answer: Tensor = bitsandbytes.nn.Linear4bit.forward(layer, x)
    return answer


def test_outside_autocast_answers_and_gradients_are_those_of_bitsandbytes(layer: Any) -> None:
    assert isinstance(layer, Nf4Linear)
    ours = torch.randn(3, 5, 128, requires_grad=True)
    other = ours.detach().clone().requires_grad_()
    answers = layer(ours), theirs(layer, other)
    assert torch.equal(*answers) and answers[0].dtype == torch.float32
    for answer in answers:
        answer.square().sum().backward()
    assert ours.grad is not None and torch.equal(ours.grad, other.grad)  # type: ignore[arg-type]


def test_under_autocast_a_float32_input_gives_the_same_numbers_in_half_the_bytes(
    layer: Any,
) -> None:
    x = torch.randn(3, 5, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, other = layer(x), theirs(layer, x)
    assert ours.dtype == torch.bfloat16 and other.dtype == torch.float32
    assert torch.equal(ours.float(), other)


def test_only_packed_weights_and_their_scales_are_saved_for_the_backward_pass(layer: Any) -> None:
    saved: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = layer(torch.randn(4, 128, dtype=torch.bfloat16, requires_grad=True))
    weight_bytes = 2 * 128 * 192
    assert saved[0].data_ptr() == layer.weight.data_ptr()
    assert sum(t.numel() * t.element_size() for t in saved) < 0.4 * weight_bytes
    held = [v for v in vars(out.grad_fn).values() if isinstance(v, Tensor)]
    assert not held, "a tensor beside them would be hidden from checkpointing"
