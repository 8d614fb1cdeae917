"""Compiled blocks beside what changes their weights, their attention or what they keep: gradients
are eager's, and blocks of a kind stay one graph."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sd3tune.adapters import lycoris
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan.arithmetic import CompileOptions
from sd3tune.sd3 import attention
from sd3tune.train.checkpointing import checkpoint_blocks, keep_in_blocks
from sd3tune.train.compiling import compile_blocks
from sd3tune.train.inputs_on_host import InputsOnHost
from tests.cpu.adapted import gradients, model_of, quantised

pytestmark = [
    pytest.mark.slow,
    # PyTorch looks at the gradient of what it traces, and warns of it where it is not a leaf.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
CPU = torch.device("cpu")
KINDS = 2  # of the three blocks: with a second attention, and the last


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled(model: Any, keep: tuple[Any, ...] = ()) -> Any:
    compile_blocks(model, "aot_eager", CompileOptions(), keep)
    return model


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 0.0) -> None:
    """rtol: of the largest value of a tensor."""
    assert ours.keys() == theirs.keys() and len(ours) > 5
    for name, want in theirs.items():
        assert float((ours[name] - want).abs().max()) <= rtol * float(want.abs().max()), name


def graphs() -> int:
    assert not torch._dynamo.utils.counters["graph_break"]
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("scheme", ["int4-quanto", "int2-quanto", "fp8-quanto", "fp8-w8a8"])
def test_blocks_of_quantised_weights_are_compiled(scheme: str) -> None:
    agree(gradients(compiled(model_of(scheme))), gradients(model_of(scheme)), 1e-5)
    assert graphs() == KINDS


def test_blocks_with_lokr_are_compiled() -> None:
    def adapted() -> Any:
        model = quantised("no_change")
        lycoris.attach(model, Lycoris(algo="lokr", linear_dim=4, linear_alpha=4),
                       dtype=torch.float32, seed=1)  # fmt: skip
        return model.train()

    agree(gradients(compiled(adapted())), gradients(adapted()), 1e-5)
    assert graphs() == KINDS


def test_contiguous_inputs_of_attention() -> None:
    def attending() -> Any:
        model = model_of()
        model.set_attn_processor(attention.ContiguousJointAttention())
        return model

    agree(gradients(compiled(attending(), ("attention",) * 3)), gradients(attending()), 1e-5)
    assert graphs() == KINDS


def test_an_interval_and_inputs_on_the_host() -> None:
    """Checkpointing stays outside of blocks that keep their inputs."""
    ours, waiting = compiled(model_of()), compiled(model_of())
    checkpoint_blocks(ours, 2)
    keep_in_blocks(waiting, ["inputs"] * 3, InputsOnHost(CPU, pin=False))
    theirs = gradients(model_of())
    agree(gradients(ours), theirs)
    agree(gradients(waiting), theirs)


def test_blocks_that_keep_different_things() -> None:
    """The two kinds of those that keep attention are compiled by themselves."""
    keep = ("inputs", "attention", "everything")
    ours = compiled(model_of(), keep)
    keep_in_blocks(ours, ("inputs", "everything", "everything"))
    agree(gradients(ours), gradients(model_of()))
    assert graphs() == 3
