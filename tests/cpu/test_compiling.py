"""Switches of PyTorch: how blocks are compiled (`dynamo_*`, through a backend that only records),
and the bits of float32 products."""

import copy
import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune import modulations, offload, quant
from sd3tune.adapters import lora
from sd3tune.backends import cuda
from sd3tune.demo import tiny
from sd3tune.plan.arithmetic import CompileOptions, process_switches
from sd3tune.sd3.kept_attention import KEPT
from sd3tune.train import checkpointing
from sd3tune.train.compiling import compile_blocks
from tests import plans

COMPILED: list[str | None] = []  # the mode of each compilation


@torch._dynamo.register_backend(name="recording")
def recording(graph: Any, inputs: Any, mode: str | None = None) -> Any:
    COMPILED.append(mode)
    return graph.forward


class Whole(nn.Module):
    def forward(self, image: Tensor, text: Tensor, time: Tensor, more: Any = None) -> Tensor:
        return image * 2


class Broken(nn.Module):
    def forward(self, image: Tensor, text: Tensor, time: Tensor, more: Any = None) -> Tensor:
        torch._dynamo.graph_break()
        return image * 2


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    COMPILED.clear()
    yield
    torch._dynamo.reset()


def compiled(block: nn.Module, **settings: Any) -> nn.Module:
    """A block as a run with these settings compiles it."""
    options = plans.plan("h100", dynamo_backend="aot_eager", **settings).hardware.compile_options
    compile_blocks(Blocks(block), "recording", options)
    return block


class Blocks(nn.Module):
    """A transformer of blocks alone."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(blocks)


def asked(block: nn.Module, tokens: int = 4, batch: int = 2) -> Tensor:
    """The block's answer to ones; images, text and time."""
    answer: Tensor = block(*(torch.ones(batch, n, 8) for n in (tokens, 3)), torch.ones(batch, 8))
    assert torch.equal(answer, torch.full((batch, tokens, 8), 2.0))
    return answer


@pytest.mark.parametrize("dynamic, times", [(None, 1), (True, 1), (False, 4)])
def test_sizes_are_compiled_together_unless_each_is_to_be_compiled_anew(
    dynamic: bool | None, times: int
) -> None:
    block = compiled(Whole(), dynamo_dynamic=dynamic)
    for tokens, batch in ((4, 2), (5, 2), (6, 2), (6, 3)):
        asked(block, tokens, batch)
    assert len(COMPILED) == times


def test_a_block_of_several_graphs_is_an_error_with_dynamo_fullgraph() -> None:
    asked(compiled(Broken()))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        asked(compiled(Broken(), dynamo_fullgraph=True))


def test_the_mode_reaches_the_backend() -> None:
    asked(compiled(Whole(), dynamo_mode="max-autotune-no-cudagraphs"))
    compile_blocks(Blocks(other := Whole()), "recording", CompileOptions())
    asked(other)
    assert COMPILED == ["max-autotune-no-cudagraphs", None]


BUCKETS = [(16, 16), (16, 24), (24, 16), (20, 20), (12, 32), (32, 12), (8, 32), (16, 20), (20, 16),
           (28, 12), (12, 28), (24, 24)]  # fmt: skip


KEEPING = """
import torch
from sd3tune.plan.arithmetic import CompileOptions
from sd3tune.train.compiling import compile_blocks
from tests.cpu.test_compiling import Blocks, Small
torch.manual_seed(0)
blocks = Blocks(Small(False))
compile_blocks(blocks, "inductor", CompileOptions())
asked = torch.ones(2, 4, 8), torch.ones(2, 3, 8), torch.ones(2, 8)
image, text = blocks.transformer_blocks[0](*asked)
(image.square().sum() + text.sum()).backward()
found = torch._dynamo.utils.counters["aot_autograd"]
print(found["autograd_cache_hit"], found["autograd_cache_miss"], image.sum().item())
"""


@pytest.mark.slow
def test_compiled_code_is_read_by_the_next_process_and_made_anew_where_it_is_damaged(
    tmp_path: Path,
) -> None:
    def run() -> list[str]:
        environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it in this process
        ran = subprocess.run([sys.executable, "-W", "ignore", "-c", KEEPING], env=environ,
                             capture_output=True, text=True, check=True)  # fmt: skip
        return ran.stdout.split()

    cold, warm = run(), run()
    kept = [path for path in (tmp_path / "sd3tune" / "compiled").rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert cold[:2] == ["0", "1"] and warm[:2] == ["1", "0"] and warm[2] == cold[2]
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    assert run()[2] == cold[2]


class Small(nn.Module):
    """A block with weights. kind: a part that other blocks lack."""

    def __init__(self, kind: bool) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(8, 8), nn.Linear(8, 8)
        self.more = nn.Linear(8, 8) if kind else None

    def forward(self, image: Tensor, text: Tensor, time: Tensor, more: Any = None) -> Any:
        image = image + self.image(image) * time[:, None] + text.mean(1, keepdim=True)
        return (image if self.more is None else self.more(image)), self.text(text)


# PyTorch looks at the gradient of what it traces, and warns of it where it is not a leaf.
LOOKS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@LOOKS
def test_blocks_of_a_kind_are_one_graph_in_twelve_sizes() -> None:
    """The first block too, whose inputs come from frozen layers."""
    torch.manual_seed(0)
    eager = Blocks(*(Small(kind=i < 2) for i in range(6)))
    ours = copy.deepcopy(eager)
    compile_blocks(ours, "recording", CompileOptions())
    for n in range(12):
        batch, tokens = 2 + n % 3, 4 + n
        image, text = torch.randn(batch, tokens, 8), torch.randn(batch, 5, 8)
        time = torch.randn(batch, 8)
        losses = []
        for model in (eager, ours):
            left, right = image.clone(), text.clone()
            for block in model.transformer_blocks:
                left, right = block(left, right, time)
            losses.append(left.square().mean() + right.mean())
            losses[-1].backward()
        assert torch.equal(*losses)
    assert len(COMPILED) == 2
    wanted, found = ([p.grad for p in m.parameters() if p.grad is not None] for m in (eager, ours))
    assert len(wanted) == len(found) > 20
    assert all(map(torch.equal, wanted, found))


@LOOKS
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["no_change", "int8-w8a8"])
def test_twelve_buckets_and_six_blocks_of_three_kinds_are_three_graphs(scheme: str) -> None:
    """And no graph is broken in two; the numbers are eager's."""
    eager, ours = (six_blocks(scheme) for _ in range(2))
    compile_blocks(ours, "recording", CompileOptions())
    torch._dynamo.utils.counters.clear()
    for number, (height, width) in enumerate(BUCKETS):
        same(ours, eager, question(2 + number % 2, height, width))
    assert len(COMPILED) == 3
    assert not torch._dynamo.utils.counters["graph_break"]


class Attending(nn.Module):
    """A block of attention, with a layer before it and two after it."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.after, self.last = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, image: Tensor, text: Tensor, time: Tensor, more: Any = None) -> Any:
        tokens = torch.cat([image, text], dim=1) * time[:, None]
        q, k, v = self.project(tokens)[:, None].chunk(3, dim=-1)
        out = nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]
        image_out, text_out = out[:, : image.shape[1]], out[:, image.shape[1] :]
        return image + self.last(self.after(image_out).tanh()), text + text_out


class Operators(TorchDispatchMode):
    """Attention kernels and matrix products that run, compiled ones too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention = self.products = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.attention += func in KEPT
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


@LOOKS
def test_a_compiled_block_that_keeps_attention_computes_the_rest_again() -> None:
    """Of the rest, what its gradients need: not the last layer. They are the bits of blocks that
    keep everything."""
    torch.manual_seed(0)
    eager = Blocks(Attending(), Attending())
    ours = copy.deepcopy(eager)
    compile_blocks(ours, "aot_eager", CompileOptions(), ["attention"] * 2)
    for tokens in (4, 5):
        asked = torch.randn(2, tokens, 8), torch.randn(2, 3, 8), torch.randn(2, 8)
        found, counts = [], []
        for model in (eager, ours):
            model.zero_grad()
            with Operators() as operators:
                image, text = (t.clone().requires_grad_() for t in asked[:2])
                for block in model.transformer_blocks:
                    image, text = block(image, text, asked[2])
                (image.square().mean() + text.mean()).backward()
            found.append([p.grad for p in model.parameters() if p.grad is not None])
            counts.append((operators.attention, operators.products))
        assert len(found[0]) == 12 and all(map(torch.equal, *found))
        (attention, products), (ours_attention, ours_products) = counts
        assert attention == ours_attention == 2 and ours_products == products + 2 * 2


@LOOKS
@pytest.mark.slow
def test_blocks_that_keep_attention_are_three_graphs_in_twelve_buckets() -> None:
    """They keep their inputs and the outputs of attention; passes without gradients use the graphs
    of other blocks."""
    eager, ours = six_blocks(), six_blocks()
    compile_blocks(ours, "aot_eager", CompileOptions(), ["attention"] * 6)
    torch._dynamo.utils.counters.clear()
    for number, (height, width) in enumerate(BUCKETS):
        with Operators() as operators:
            same(ours, eager, question(2 + number % 2, height, width))
        assert operators.attention == 2 * 8  # six blocks, two with a second attention
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert not torch._dynamo.utils.counters["graph_break"]
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        gradients(ours, question(2, 16, 16))
    weights = {p.data_ptr() for p in ours.parameters()}
    shapes = Counter(tuple(t.shape) for t in saved if t.data_ptr() not in weights)
    assert shapes[2, 64, 384] == 7 and shapes[2, 20, 384] == 6, "inputs of blocks and what follows"
    assert shapes[2, 6, 84, 64] == 6 and shapes[2, 6, 64, 64] == 2, "outputs of attention"
    large = sum(count for shape, count in shapes.items() if prod(shape) > 2 * 20 * 384 - 1)
    assert large == 7 + 6 + 6 + 2


@LOOKS
@pytest.mark.slow
def test_swapped_and_checkpointed_blocks_are_compiled_once_and_leave_the_device() -> None:
    """Weights that come and go are inputs of the graphs: no visit compiles anything. Modulations
    are computed outside the blocks."""
    eager, ours = (six_blocks() for _ in range(2))
    compile_blocks(ours, "aot_eager", CompileOptions())
    alive: list[weakref.ref[Tensor]] = []  # while a block is on the device

    def copy_of(weight: Tensor) -> Tensor:
        made = weight.clone()
        alive.append(weakref.ref(made))
        return made

    modulations.take_out(ours, "streamed", torch.device("cpu"), Tensor.clone)
    offload.stream(ours, 3, Tensor.clone, copy_of)
    for model in (eager, ours):
        checkpointing.checkpoint_blocks(model, 1)
    torch._dynamo.utils.counters.clear()
    for size in (16, 24):
        same(ours, eager, question(2, 16, size), rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert len(alive) > 100 and not any(reference() is not None for reference in alive)


def six_blocks(scheme: str = "no_change") -> Any:
    """SD3.5 medium with two blocks of a second attention, three plain ones, and the last."""
    torch.manual_seed(0)
    shape = tiny.SHAPES["sd3.5-medium"] | {"num_layers": 6, "dual_attention_layers": (0, 1)}
    model = tiny.transformer(shape).requires_grad_(False)
    quant.apply(model, scheme)
    shape_of = lora.Shape(rank=2, alpha=2, dropout=0.0, targets=("attn.to_q",))
    lora.attach(model, shape_of, dtype=torch.float32, seed=1)
    return model.train()


def question(batch: int = 2, height: int = 16, width: int = 16) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(100 * height + width)
    return {
        "hidden_states": torch.randn(batch, 16, height, width, generator=dice),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, 20, 96, generator=dice),
        "pooled_projections": torch.randn(batch, 80, generator=dice),
        "return_dict": False,
    }


def same(ours: Any, theirs: Any, asked: dict[str, Any], *, rtol: float = 0.0) -> None:
    """Loss and gradients of two models. rtol: of the largest value of a tensor."""
    found = [gradients(model, asked) for model in (ours, theirs)]
    assert found[0].keys() == found[1].keys() and len(found[0]) > 5
    for name, want in found[1].items():
        error = float((found[0][name] - want).abs().max())
        assert error <= rtol * float(want.abs().max()), name


def gradients(model: Any, asked: dict[str, Any]) -> dict[str, Tensor]:
    """Of every trained weight, and the loss; dropout from one seed."""
    torch.manual_seed(5)
    model.zero_grad(set_to_none=True)
    loss = model(**asked)[0].square().mean()
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return grads | {"loss": loss.detach()}


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
