"""Switches of PyTorch: how blocks are compiled (`dynamo_*`, through a backend that only records),
and the bits of float32 products."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd3tune.backends import cuda
from sd3tune.plan.arithmetic import CompileOptions, process_switches
from sd3tune.train.begin import compile_blocks
from tests import plans

COMPILED: list[str | None] = []  # the mode of each compilation


@torch._dynamo.register_backend(name="recording")
def recording(graph: Any, inputs: Any, mode: str | None = None) -> Any:
    COMPILED.append(mode)
    return graph.forward


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x * 2


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    COMPILED.clear()
    yield
    torch._dynamo.reset()


def compiled(block: nn.Module, **settings: Any) -> nn.Module:
    """A block as a run with these settings compiles it."""
    options = plans.plan("h100", dynamo_backend="aot_eager", **settings).hardware.compile_options
    compile_blocks(SimpleNamespace(transformer_blocks=[block]), "recording", options)
    return block


def test_sizes_are_compiled_together_or_each_anew() -> None:
    for dynamic, times in ((True, 1), (False, 3)):
        COMPILED.clear()
        block = compiled(Whole(), dynamo_dynamic=dynamic)
        for size in (4, 5, 6):
            assert torch.equal(block(torch.ones(size)), 2 * torch.ones(size))
        assert len(COMPILED) == times


def test_a_block_of_several_graphs_is_an_error_with_dynamo_fullgraph() -> None:
    assert torch.equal(compiled(Broken())(torch.ones(2)), 2 * torch.ones(2))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(Broken(), dynamo_fullgraph=True)(torch.ones(2))


def test_the_mode_reaches_the_backend() -> None:
    compiled(Whole(), dynamo_mode="max-autotune-no-cudagraphs")(torch.ones(2))
    compile_blocks(SimpleNamespace(transformer_blocks=[other := Whole()]), "recording",
                   CompileOptions())  # fmt: skip
    other(torch.ones(2))
    assert COMPILED == ["max-autotune-no-cudagraphs", None]


def test_disable_tf32_keeps_every_bit_of_float32_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CUDA_DEVICE_ORDER", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, os.environ.get(name, "set"))  # `prepare` sets both
    before = torch.get_float32_matmul_precision()
    try:
        for disabled, precision in ((False, "high"), (True, "highest")):
            plan = plans.plan("h100", disable_tf32=disabled)
            cuda.prepare(**process_switches(plan.hardware, plan.attention))
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
