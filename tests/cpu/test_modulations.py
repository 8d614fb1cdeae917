"""Modulations computed outside the blocks: the same numbers, and no AdaLN weight on the device."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune import modulations, offload
from sd3tune.adapters import lora
from sd3tune.demo import tiny
from sd3tune.errors import PlanError
from sd3tune.modulations import Call
from sd3tune.plan.picture_plan import SkipLayers
from sd3tune.sample.pipeline import Picture, Sampling, draw_latents, pipeline
from sd3tune.train import checkpointing
from tests.cpu.adapted import gradients, model_of, quantised, question, same, with_adapter
from tests.cpu.conftest import Prepare, Train
from tests.cpu.golden_curves import CASES, RECORDED, TOLERANCE

CPU = torch.device("cpu")
PLACES = ("streamed", "host")


def outside(model: Any, where: Any = "streamed") -> modulations.Modulations:
    assert modulations.movable(model)
    made = modulations.take_out(model, where, CPU)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "name, scheme, where",
    [
        *((name, "no_change", "streamed") for name in tiny.SHAPES),
        ("sd3.5-medium", "no_change", "host"),
        ("sd3.5-large", "int8-quanto", "streamed"),
    ],
)
def test_each_architecture_gives_the_same_gradients(name: str, scheme: str, where: str) -> None:
    """Blocks are recomputed. On one CPU, streamed and host are the same products."""
    inside, moved = model_of(scheme, name), model_of(scheme, name)
    outside(moved, where)
    for model in (inside, moved):
        checkpointing.checkpoint_blocks(model, 1)
    same(gradients(moved), gradients(inside))


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_streamed_modulations_are_the_same_bits_in_each_format(
    base: torch.dtype, autocast: torch.dtype | None
) -> None:
    def loss(model: Any) -> Tensor:
        asked = {
            k: v.to(base) if isinstance(v, Tensor) and k != "timestep" else v
            for k, v in question().items()
        }
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            answer: Tensor = model.eval()(**asked)[0]
        return answer

    inside, moved, host = (with_adapter(quantised("no_change", dtype=base)) for _ in range(3))
    outside(moved), outside(host, "host")
    assert torch.equal(loss(moved), loss(inside))
    eps = torch.finfo(torch.bfloat16 if autocast else base).eps
    torch.testing.assert_close(loss(host), loss(inside), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("where", PLACES)
def test_no_adaln_weight_is_left_in_the_model(where: str) -> None:
    model = model_of()
    adaln = sum(p.numel() for n in modulations.adaln_layers(model).values() for p in n.parameters())
    before = sum(p.numel() for p in model.parameters())
    made = outside(model, where)
    assert sum(p.numel() for p in model.parameters()) == before - adaln
    assert adaln / before > 0.2
    assert all(not list(n.parameters()) for n in modulations.adaln_layers(model).values())
    assert made is modulations.of(model) and modulations.of(model_of()) is None


def test_one_layer_at_a_time_is_on_the_device() -> None:
    """`meta` stands in for the device, and refuses to work with numbers of the host."""
    meta = torch.device("meta")
    model = model_of()
    checkpointing.checkpoint_blocks(model, 1)
    modulations.take_out(model, "streamed", meta)
    model.to(meta)
    asked = {k: v.to(meta) if isinstance(v, Tensor) else v for k, v in question().items()}
    model(**asked)[0].square().mean().backward()
    assert {p.grad.device for p in model.parameters() if p.grad is not None} == {meta}


@pytest.mark.parametrize("where", PLACES)
def test_announced_calls_give_the_same_gradients(where: str) -> None:
    """Passes without gradients come between them, as an evaluation does."""
    inside, moved = model_of(), model_of()
    made, asked = outside(moved, where), question()
    call = Call(asked["timestep"], asked["pooled_projections"])
    made.announce([call, call], nullcontext())
    with torch.no_grad():
        moved(**asked | {"timestep": asked["timestep"] / 2})
    expected = gradients(inside)
    same(gradients(moved), expected)
    same(gradients(moved), expected)
    same(gradients(moved), expected)  # nothing is announced any more


def test_a_teacher_is_asked_the_announced_question_and_an_evaluation_another_one() -> None:
    model, asked = model_of(), question()
    made = outside(model)
    other = asked | {"timestep": asked["timestep"] / 2}
    with torch.no_grad():
        expected = [model.eval()(**q)[0] for q in (asked, other)]
        made.announce(
            [Call(asked["timestep"], asked["pooled_projections"], without_gradient=True)],
            nullcontext(),
        )
        for question_, answer in zip((asked, other), expected, strict=True):
            assert torch.equal(model(**question_)[0], answer)


def test_positions_come_from_the_host_for_each_size() -> None:
    still, moved = model_of().eval(), model_of().eval()
    copied: list[int] = []

    def to_device(t: Tensor) -> Tensor:
        copied.append(t.numel())
        return t.clone()

    offload.positions_to_host(moved, Tensor.clone, to_device)
    assert "pos_embed.pos_embed" not in dict(moved.named_buffers())
    wide = question()["hidden_states"].repeat(1, 1, 1, 2)
    with torch.no_grad():
        for asked in (question(), question(), question() | {"hidden_states": wide}):
            assert torch.equal(moved(**asked)[0], still(**asked)[0])
    assert len(copied) == 2 and copied[1] == 2 * copied[0]


def test_a_call_that_is_not_the_announced_one_is_never_answered_with_numbers() -> None:
    model, asked = model_of(), question()
    outside(model).announce(
        [Call(asked["timestep"] / 2, asked["pooled_projections"])], nullcontext()
    )
    assert model(**asked)[0].isnan().all()


@pytest.mark.parametrize("target", ["norm1.linear", "time_text_embed.text_embedder.linear_2"])
def test_adapted_layers_cannot_be_taken_out(target: str) -> None:
    model = quantised("no_change")
    shape = lora.Shape(rank=2, alpha=2, dropout=0.0, targets=(target,))
    lora.attach(model, shape, dtype=torch.float32, seed=1)
    assert not modulations.movable(model)


def test_swapped_blocks_do_not_copy_adaln_weights() -> None:
    still, swapped = model_of(), model_of()
    outside(swapped)
    for model in (still, swapped):
        checkpointing.checkpoint_blocks(model, 1)
    copied: list[int] = []

    def copy(t: Tensor) -> Tensor:
        copied.append(t.numel())
        return t.clone()

    offload.stream(swapped, 3, Tensor.clone, copy)
    same(gradients(swapped), gradients(still))
    width = still.config.attention_head_dim * still.config.num_attention_heads
    assert copied and max(copied) < 6 * width * width


@pytest.mark.slow
def test_a_compiled_block_is_one_graph_for_all_blocks_of_a_kind() -> None:
    """The rows of a block's modulations are data: they lead to no compilation of their own."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        compiled: Callable[..., Any] = graph.forward
        return compiled

    torch._dynamo.reset()
    counts = []
    places: tuple[modulations.Where, ...] = ("device", "streamed")
    for where in places:
        graphs.clear()
        model = model_of(name="sd3.5-large").eval()
        modulations.take_out(model, where, CPU)
        for block in model.transformer_blocks:
            block.compile(backend=backend)
        with torch.no_grad():
            model(**question())
        counts.append(len(graphs))
        torch._dynamo.reset()
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
def test_the_golden_curve_is_the_same(where: str, run: Train, demo: Path, tmp_path: Path) -> None:
    """With two batches a step, which are announced together."""
    name = "sd3.5-medium lora"
    words = [w.replace("=models/", f"={demo}/models/") for w in CASES["cases"][name]]
    run(*CASES["every"], *words, "max_train_steps=8", f"modulations={where}")
    lines = (tmp_path / "output" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for measured in ("loss", "grad_norm"):
        ours = [json.loads(line)[measured] for line in lines]
        assert ours == pytest.approx(RECORDED[name][measured][:8], rel=TOLERANCE)


@pytest.mark.parametrize(
    "word",
    ['peft_lora_target_modules=["norm1.linear"]', "model_type=full"],
)
def test_a_run_that_trains_these_layers_is_refused(word: str, prepared: Prepare) -> None:
    with pytest.raises(PlanError, match=r"`modulations=streamed` is not possible: .*train"):
        prepared("modulations=streamed", word)


class Copies(TorchDispatchMode):
    """Copies of one tensor."""

    def __init__(self, of: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.address, self.count = of.data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copied = func is torch.ops.aten._to_copy.default and args[0].data_ptr() == self.address
        self.count += copied
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "sampler, steps, skipped, copies",
    [
        ("euler", 17, False, 2),
        ("heun", 4, True, 2),
        pytest.param("euler", 4, True, 2, marks=pytest.mark.slow),
        pytest.param("unipc", 4, True, 2, marks=pytest.mark.slow),
        pytest.param("dpm++", 4, True, 2, marks=pytest.mark.slow),
    ],
)
def test_weights_are_copied_once_for_sixteen_passes_of_a_picture(
    sampler: str, steps: int, skipped: bool, copies: int
) -> None:
    """Passes with skipped layers have one image instead of two, and a copy of their own. The
    picture is the same."""
    still, moved, host = (model_of().eval() for _ in range(3))
    embeds = question(1)["encoder_hidden_states"], question(1)["pooled_projections"]
    picture = Picture("cat", "a cat", embeds, (64, 96))
    skip = SkipLayers((1,), 2.5, 0.01, 0.9) if skipped else None
    negative = embeds[0] / 2, embeds[1] / 2
    how = Sampling(steps, 4.0, 3.0, skip, "", negative, None, sampler)

    def drawn(model: Any) -> Tensor:
        with torch.no_grad():
            return draw_latents(pipeline(model, None, 3.0, sampler), picture, how)

    with Copies(moved.norm_out.linear.weight) as counted:
        outside(moved)
        assert torch.equal(drawn(moved), drawn(still))
    assert counted.count == copies
    outside(host, "host")
    torch.testing.assert_close(drawn(host), drawn(still), rtol=1e-4, atol=1e-4)
