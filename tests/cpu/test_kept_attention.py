"""Checkpointed blocks that keep the outputs of attention: the same bits, and no attention twice."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode

from sd3tune import offload
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.demo import tiny
from sd3tune.plan.block_keeping import Keep, at_interval
from sd3tune.plan.plan import Plan
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sd3 import attention
from sd3tune.sd3.kept_attention import KEPT
from sd3tune.train.begin import begin
from sd3tune.train.checkpointing import keep_in_blocks
from tests.cpu.adapted import gradients, model_of, same
from tests.cpu.conftest import Train
from tests.plans import decided
from tests.this_machine import prepared_here

KEEPS: tuple[Keep, ...] = ("inputs", "attention", "everything")


class Counting(TorchDispatchMode):
    """Attention kernels that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in KEPT
        return func(*args, **(kwargs or {}))


def sliced_model(name: str = "sd3.5-medium") -> Any:
    model = model_of(name=name)
    model.set_attn_processor(attention.SlicedJointAttention(500))
    return model


@pytest.mark.parametrize("name", tiny.SHAPES)
@pytest.mark.parametrize("make", [model_of, sliced_model], ids=["sdpa", "sliced"])
def test_kept_outputs_change_no_bit_of_any_gradient(name: str, make: Callable[..., Any]) -> None:
    """With dropout, which both passes of a block must draw alike."""
    plain, kept = make(name=name), make(name=name)
    keep_in_blocks(kept, ["attention"] * len(kept.transformer_blocks))
    same(gradients(kept), gradients(plain))


def test_blocks_that_keep_different_things_and_inputs_on_the_host_work_together() -> None:
    plain, kept = model_of(), model_of()
    keep_in_blocks(kept, KEEPS, save_on_cpu)
    same(gradients(kept), gradients(plain))
    same(gradients(kept), gradients(plain))


def test_swapped_blocks_keep_their_outputs_too() -> None:
    plain, kept = model_of("int8-quanto"), model_of("int8-quanto")
    keep_in_blocks(kept, ["attention"] * 3)
    offload.stream(kept, 2, Tensor.clone, Tensor.clone)
    same(gradients(kept), gradients(plain))


@pytest.mark.parametrize("make", [model_of, sliced_model], ids=["sdpa", "sliced"])
def test_attention_of_a_recomputed_block_runs_once(make: Callable[..., Any]) -> None:
    """The medium tiny model has three blocks, and a second attention in two of them."""
    runs = {}
    for keep in KEEPS:
        model = make()
        keep_in_blocks(model, [keep] * 3)
        with Counting() as counting:
            gradients(model)
        runs[keep] = counting.calls
    once = runs["everything"]
    assert once >= 4 and runs == {"inputs": 2 * once, "attention": once, "everything": once}


def test_without_gradients_nothing_is_kept_and_pictures_are_the_same() -> None:
    from tests.cpu.adapted import question

    plain, kept = model_of().eval(), model_of().eval()
    keep_in_blocks(kept, ["attention"] * 3)
    with torch.no_grad():
        assert torch.equal(kept(**question())[0], plain(**question())[0])


def test_the_definition_written_out_is_computed_again() -> None:
    from sd3tune.backends.kernels.sdpa import kernel

    plain, kept = model_of(), model_of()
    keep_in_blocks(kept, ["attention"] * 3)
    with kernel("native-math"):
        ours, theirs = gradients(kept), gradients(plain)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def checkpointed(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    words = (f"output_dir={tmp_path_factory.mktemp('output')}", "gradient_checkpointing=true",
             "gradient_checkpointing_keep=attention", "validation_disable=true")  # fmt: skip
    return prepared_here(demo / "config" / "config.json", *words).plan


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "dora", "lycoris"])
def test_every_kind_of_adapter_trains_alike(kind: str, checkpointed: Plan) -> None:
    """As the plan has it, through everything that prepares a run."""
    assert set(checkpointed.memory.keep.value) == {"attention"}

    def state(keep: Keep) -> Any:
        layers = checkpointed.model.transformer.layers
        plan = decided(checkpointed, "memory", keep=(keep,) * layers)
        trained, algorithm = plan.trained, Lycoris(algo="lokr", linear_dim=4, linear_alpha=4)
        assert trained.lora is not None
        trained = replace(trained, lora=replace(trained.lora, dora=kind == "dora"),
                          lycoris=algorithm if kind == "lycoris" else None)  # fmt: skip
        return begin(replace(plan, trained=trained), ALONE_ON_CPU)

    every, kept = state("everything"), state("attention")
    for s in (every, kept):
        for i, p in enumerate(s.trainable):  # so that every part of it gets a gradient
            nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(i))
    same(gradients(kept.model), gradients(every.model))


def test_an_interval_says_which_blocks_keep_less() -> None:
    assert at_interval(5, 2) == ("inputs", "everything", "inputs", "everything", "inputs")
    model = model_of()
    keep_in_blocks(model, at_interval(3, 2), nullcontext)
    same(gradients(model), gradients(model_of()))


@pytest.mark.slow
def test_a_run_that_keeps_outputs_is_the_same_run(run: Train, tmp_path: Path) -> None:
    words = ("max_train_steps=4", "lr_warmup_steps=0", "gradient_checkpointing=true")
    runs = {
        keep: run(*words, f"output_dir={tmp_path / keep}", f"gradient_checkpointing_keep={keep}")
        for keep in ("inputs", "attention")
    }
    losses = {(r.loss_before, r.loss_after, r.noise) for r in runs.values()}
    assert len(losses) == 1 and None not in losses.pop()
